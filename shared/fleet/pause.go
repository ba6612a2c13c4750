package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/audit"
	"github.com/droverhq/drover/shared/broker"
	"github.com/droverhq/drover/shared/record"
	"github.com/droverhq/drover/shared/task"
)

// Durable is a durable consumer through which a service takes tasks of a class.
// Which there are is the caller's knowledge: the topology's.
type Durable struct {
	Class   task.Class
	Service string
	Stream  string
	Name    string
}

// Record says why a service's share of a class is paused.
type Record struct {
	Class   task.Class `json:"class"`
	Service string     `json:"service"`
	Until   time.Time  `json:"until"` // Pause rounds it up to whole seconds
	Reason  string     `json:"reason,omitempty"`
	By      string     `json:"by,omitempty"` // who paused it; Pause takes "" for user@host
	At      time.Time  `json:"at"`           // when
}

// Explains reports whether the record is of the pause that a consumer says it is
// in until then, and not of an earlier one.
func (r Record) Explains(until time.Time) bool { return r.Until.Equal(until) }

// Pause has the broker hand out nothing through the durables until r.Until, which
// must be in the future, and leaves a copy of r for each class and service among
// them; its Class, Service and At are filled in. All durables of a share are to be
// given together: those of the class's stream, and of RETRY.
//
// The record is written first: whatever fails in between, there is at worst a
// record of a pause that is not, which nobody reads and which expires, and never a
// pause that nobody explains. Pausing again replaces end, reason and name. Pause
// goes on after an error. It returns the records of the shares that are paused,
// and the joined errors about the others, which wrap [record.ErrNoBucket], [broker.ErrDenied] or
// jetstream.ErrConsumerNotFound; doing it again is safe. The act is in the audit
// trail; when that cannot take it, nothing is done: see [audit.ErrNotStored].
func Pause(ctx context.Context, js jetstream.JetStream, durables []Durable, r Record) ([]Record, error) {
	r.At, r.Until = time.Now().UTC(), r.Until.UTC().Add(time.Second-1).Truncate(time.Second)
	if !r.Until.After(r.At) {
		return nil, fmt.Errorf("pause until %s: that is over", r.Until.Format(time.RFC3339))
	}
	act, err := audit.Record(ctx, js, audit.Entry{
		Verb: "pause", By: r.By, Reason: r.Reason, Targets: names(durables), Filter: "until " + r.Until.Format(time.RFC3339),
	})
	if err != nil {
		return nil, err
	}
	r.By = act.By
	var paused []Record
	var errs []error
	for _, of := range shares(durables) {
		r.Class, r.Service = of[0].Class, of[0].Service
		if err := pauseShare(ctx, js, of, r); err != nil {
			errs = append(errs, fmt.Errorf("pause %s/%s: %w", r.Class, r.Service, err))
			continue
		}
		paused = append(paused, r)
	}
	return paused, conclude(ctx, js, act, map[string]int{"paused": len(paused)}, errs)
}

// conclude stores how an act ended, and returns why it is not whole.
func conclude(ctx context.Context, js jetstream.JetStream, act audit.Entry, counts map[string]int, errs []error) error {
	err := errors.Join(errs...)
	ctx = context.WithoutCancel(ctx) // what was done is done; Record has a limit of its own
	if _, aerr := audit.Record(ctx, js, act.Outcome(counts, err)); aerr != nil {
		return errors.Join(err, fmt.Errorf("it is done as far as said, but the trail does not say how it ended: %w", aerr))
	}
	return err
}

func pauseShare(ctx context.Context, js jetstream.JetStream, of []Durable, r Record) error {
	key, err := pauseKey(r.Class, r.Service)
	if err == nil {
		_, err = bucket(js).Put(ctx, key, r, time.Until(r.Until)+explainFor, record.Any)
	}
	if err != nil {
		return err
	}
	for _, d := range of {
		err := broker.Ask(ctx, js.Conn(), d.subject(), askLimit, func(ctx context.Context) error {
			_, err := js.PauseConsumer(ctx, d.Stream, d.Name, r.Until)
			return err
		})
		if err == nil {
			err = settled(ctx, js, d, func(i *jetstream.ConsumerInfo) bool {
				return i.Paused && i.Config.PauseUntil != nil && i.Config.PauseUntil.Equal(r.Until)
			})
		}
		if err != nil {
			return d.wrap(err)
		}
	}
	return nil
}

// Resume has the broker hand out tasks through the durables again, at once, and
// deletes the records. by is who does that; "" means user@host. It goes on after an
// error, and returns the shares of which
// something was paused, with the record that explained it if there is one. Errors
// are as those of [Pause].
//
// The records go last: what fails in between leaves a record without a pause.
func Resume(ctx context.Context, js jetstream.JetStream, durables []Durable, by string) ([]Record, error) {
	known, err := Records(ctx, js)
	if err != nil {
		return nil, fmt.Errorf("resume: %w", err)
	}
	act, err := audit.Record(ctx, js, audit.Entry{Verb: "resume", By: by, Targets: names(durables)})
	if err != nil {
		return nil, err
	}
	var resumed []Record
	var errs []error
	for _, of := range shares(durables) {
		r := Record{Class: of[0].Class, Service: of[0].Service}
		i := slices.IndexFunc(known, func(k Record) bool { return k.Class == r.Class && k.Service == r.Service })
		if i >= 0 {
			r = known[i]
		}
		was, err := resumeShare(ctx, js, of, i >= 0)
		if err != nil {
			errs = append(errs, fmt.Errorf("resume %s/%s: %w", r.Class, r.Service, err))
		}
		if was {
			resumed = append(resumed, r)
		}
	}
	return resumed, conclude(ctx, js, act, map[string]int{"resumed": len(resumed)}, errs)
}

// resumeShare reports whether a durable was paused, and now is not.
func resumeShare(ctx context.Context, js jetstream.JetStream, of []Durable, recorded bool) (was bool, err error) {
	for _, d := range of {
		err := settled(ctx, js, d, func(i *jetstream.ConsumerInfo) bool { was = was || i.Paused; return true })
		if err == nil {
			err = broker.Ask(ctx, js.Conn(), d.subject(), askLimit, func(ctx context.Context) error {
				_, err := js.ResumeConsumer(ctx, d.Stream, d.Name)
				return err
			})
		}
		if err == nil {
			err = settled(ctx, js, d, func(i *jetstream.ConsumerInfo) bool { return !i.Paused })
		}
		if err != nil {
			return false, d.wrap(err)
		}
	}
	if !recorded {
		return was, nil
	}
	key, err := pauseKey(of[0].Class, of[0].Service)
	if err != nil {
		return was, err
	}
	return was, bucket(js).Delete(ctx, key, record.Any)
}

// settled waits until the consumer says that it is as ok wants it: a cluster
// answers a pause before its servers have agreed on it.
func settled(ctx context.Context, js jetstream.JetStream, d Durable, ok func(*jetstream.ConsumerInfo) bool) error {
	ctx, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	for {
		c, err := js.Consumer(ctx, d.Stream, d.Name)
		switch {
		case err == nil && ok(c.CachedInfo()):
			return nil
		case errors.Is(err, jetstream.ErrConsumerNotFound), errors.Is(err, jetstream.ErrStreamNotFound):
			return err
		}
		again := time.NewTimer(settleEvery)
		select {
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			if err == nil {
				err = errors.New("the broker took the request and its consumer does not follow: look again with `drover lanes`")
			}
			return err
		}
	}
}

const (
	askLimit    = 5 * time.Second  // of one request to a consumer
	explainFor  = time.Minute      // a pause after its end, for who looks then
	settleLimit = 10 * time.Second // an election takes 6 to 8 s
	settleEvery = 50 * time.Millisecond
)

// Records returns what is known of pauses. Which of them are in force, the
// consumers say: see [Record.Explains]. Its error is one of [Processes].
func Records(ctx context.Context, js jetstream.JetStream) ([]Record, error) {
	var all []Record
	var errs []error
	for e, err := range record.List[Record](ctx, bucket(js), "pause.>") {
		if err != nil {
			errs = append(errs, err)
			continue
		}
		all = append(all, e.Value)
	}
	return all, errors.Join(errs...)
}

// shares groups durables by class and service.
func shares(durables []Durable) [][]Durable {
	var out [][]Durable
	for _, d := range durables {
		i := slices.IndexFunc(out, func(of []Durable) bool { return of[0].Class == d.Class && of[0].Service == d.Service })
		if i < 0 {
			out = append(out, nil)
			i = len(out) - 1
		}
		out[i] = append(out[i], d)
	}
	return out
}

// names are the shares as people write them: urgent/email.
func names(durables []Durable) []string {
	var out []string
	for _, of := range shares(durables) {
		out = append(out, string(of[0].Class)+"/"+of[0].Service)
	}
	return out
}

// subject is where a pause is asked for.
func (d Durable) subject() string { return "CONSUMER.PAUSE." + d.Stream + "." + d.Name }

func (d Durable) wrap(err error) error {
	if errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("%s of %s: %w: make it with `drover streams apply`", d.Name, d.Stream, err)
	}
	return fmt.Errorf("%s of %s: %w", d.Name, d.Stream, err)
}

func pauseKey(class task.Class, service string) (string, error) {
	for _, t := range []string{string(class), service} {
		if err := task.CheckToken(t); err != nil {
			return "", err
		}
	}
	return "pause." + string(class) + "." + service, nil
}
