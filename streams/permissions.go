package streams

import (
	"slices"

	"github.com/droverhq/drover/shared/task"
)

// Role is what kind of user of the broker a [User] is.
type Role string

// The roles that a fleet has users of.
const (
	SystemRole   Role = "system"   // watches the servers, sees no task
	OperatorRole Role = "operator" // the drover command
	ServiceRole  Role = "service"
	ProducerRole Role = "producer"
)

// Names of the users that every fleet has, beside its services and producers.
const (
	SystemUser   = "sys"
	OperatorUser = "drover"
)

// reserved are the names that no producer may have.
var reserved = [...]string{SystemUser, OperatorUser, task.DeadletterService}

// User is someone who connects to the broker, and the subjects that it may use
// there. What is not listed is refused.
type User struct {
	Name      string // of its key; also of its connection, which makes the inbox _INBOX_<name>
	Role      Role
	Publish   []string // none means all, for SystemRole alone
	Subscribe []string // none means all, for SystemRole alone
}

// Users derives from the fleet who may do what: the operators, the deadletter
// service, the services in their order, the producers in theirs, and the system
// user. It is meaningful only when Validate passes.
func (f *Fleet) Users() []User {
	f = f.withDefaults()
	users := []User{operator(), f.deadletterUser()}
	for _, s := range f.Services {
		users = append(users, f.serviceUser(s))
	}
	for _, p := range f.Producers {
		users = append(users, f.producerUser(p))
	}
	return append(users, User{Name: SystemUser, Role: SystemRole})
}

// operator may do everything that is Drover's: the account around it keeps it from
// all else.
func operator() User {
	return User{
		Name: OperatorUser, Role: OperatorRole,
		Publish: []string{
			"$JS.API.>", "$JS.ACK.>", "$JS.FC.>", "$JS.SNAPSHOT.>", // the last for backup and restore
			"$SYS.REQ.ACCOUNT.PING.*", "$SYS.REQ.USER.INFO", // of its own account and itself
			"tasks.>", "retry.>", "later.>", "due.>", "dead.>", "audit.>", "$KV.>", "$O.>",
		},
		// _INBOX is the nats command's. Those of other users are named _INBOX_<name>.
		Subscribe: []string{"_INBOX_" + OperatorUser + ".>", "_INBOX.>", "$JS.EVENT.>"},
	}
}

// producerUser may publish its tasks and hear the answers.
func (f *Fleet) producerUser(p Producer) User {
	u := User{Name: p.Name, Role: ProducerRole, Publish: p.subjects(f), Subscribe: inbox(p.Name)}
	if p.Bodies {
		u.Publish = append(u.Publish, bodySubjects("*")...)
	}
	return u
}

// serviceUser may do what a worker of the service does, on its own consumers and
// under its own subjects.
func (f *Fleet) serviceUser(s Service) User {
	g := grants{"$JS.API.INFO"} // whether JetStream is on, asked by every connection
	for _, c := range s.Classes {
		g.streamInfo(c.Stream())
		class, _ := f.Class(c)
		for _, l := range liveConsumers(class, s) {
			g.consume(l.Stream, l.Config.Durable)
		}
		g.consume(task.RetryStream, c.RetryConsumer(s.Name))
		lane := string(c) + "." + s.Name + ".>"
		g.add("retry.wait."+lane, "retry.ready."+lane, "dead."+lane)
	}
	g.streamInfo(task.RetryStream, task.DeadStream)
	// Whether a task was moved before is asked of the leader, and that request
	// cannot be limited to subjects.
	g.api("STREAM.MSG.GET", task.RetryStream, task.DeadStream)
	g.bodies()
	g.fleet(s.Name)
	g.bucket(task.BreakersBucket, s.Name+".*")
	g.add(task.BreakersSubject + s.Name)
	g.bucket(task.LimitsBucket, "rate."+s.Name+".*") // its own rates
	g.bucket(task.LimitsBucket, "cap.>")             // resources are shared by services
	return User{Name: s.Name, Role: ServiceRole, Publish: g.list(), Subscribe: append(inbox(s.Name), task.BreakersSubject+s.Name)}
}

// deadletterUser may read and move what the broker gave up on, sweep, and keep
// what it told people.
func (f *Fleet) deadletterUser() User {
	name := task.DeadletterService
	g := grants{"$JS.API.INFO"}
	g.consume(task.AdvisoryStream, name)
	g.consume(task.DeadStream, name)
	lanes := []string{task.RetryStream} // streams that hold tasks for services
	for _, c := range f.Classes {
		if len(f.serving(c.Name)) > 0 {
			lanes = append(lanes, c.Name.Stream())
		}
	}
	for _, stream := range lanes {
		g.api("STREAM.MSG.GET", stream)
		g.api("STREAM.MSG.DELETE", stream)
		g.add("$JS.API.CONSUMER.INFO." + stream + ".*")
	}
	g.streamInfo(append(lanes, task.DeadStream, task.AdvisoryStream, task.AuditStream)...)
	g.api("STREAM.MSG.GET", task.DeadStream, task.AdvisoryStream, bodyStream)
	g.add("dead.>", "retry.wait.>") // what it buries, and timers that did not fire
	g.bodies()
	g.bucket(task.AlertsBucket, ">")
	g.fleet(name)
	return User{Name: name, Role: ServiceRole, Publish: g.list(), Subscribe: inbox(name)}
}

const bodyStream = "OBJ_" + task.BodiesBucket // behind the object store

func inbox(name string) []string { return []string{"_INBOX_" + name + ".>"} }

func bodySubjects(token string) []string {
	return []string{"$O." + task.BodiesBucket + ".C." + token, "$O." + task.BodiesBucket + ".M." + token}
}

// grants are the subjects that a user may publish to.
type grants []string

func (g *grants) add(subjects ...string) { *g = append(*g, subjects...) }

// api grants one function of the JetStream API on whole streams.
func (g *grants) api(function string, streams ...string) {
	for _, s := range streams {
		g.add("$JS.API." + function + "." + s)
	}
}

func (g *grants) streamInfo(streams ...string) { g.api("STREAM.INFO", streams...) }

// direct grants direct gets from a stream: by sequence, and by subject.
func (g *grants) direct(stream string) {
	g.add("$JS.API.DIRECT.GET."+stream, "$JS.API.DIRECT.GET."+stream+".>")
}

// consume grants pulling from one consumer and settling what it delivers. Its
// acknowledgements have two forms: nats-server 2.16 is to use the second.
func (g *grants) consume(stream, consumer string) {
	id := stream + "." + consumer
	g.add("$JS.API.CONSUMER.INFO."+id, "$JS.API.CONSUMER.MSG.NEXT."+id, "$JS.ACK."+id+".>", "$JS.ACK.*.*."+id+".>")
}

// bodies grants reading bodies, and removing those of tasks that are done.
func (g *grants) bodies() {
	g.streamInfo(bodyStream)
	g.direct(bodyStream)
	g.api("STREAM.PURGE", bodyStream)
}

// fleet grants what a process of a service does in FLEET: it tells of itself, and
// reads and watches all of it.
func (g *grants) fleet(service string) {
	g.bucket(task.FleetBucket, "process."+service+".>", "recycle."+service)
}

// bucket grants reading and watching a bucket, and writing these keys of it.
func (g *grants) bucket(bucket string, keys ...string) {
	stream := "KV_" + bucket
	g.streamInfo(stream)
	g.direct(stream)
	g.add("$JS.API.CONSUMER.CREATE."+stream+".>", "$JS.API.CONSUMER.DELETE."+stream+".>", "$JS.FC."+stream+".>")
	for _, k := range keys {
		g.add("$KV." + bucket + "." + k)
	}
}

// list is g in order and without repetitions, so that a change of the fleet is a
// small difference.
func (g grants) list() []string { return slices.Compact(slices.Sorted(slices.Values(g))) }
