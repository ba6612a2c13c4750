package demo

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/droverhq/drover/services/email"
	"github.com/droverhq/drover/services/webhook"
	"github.com/droverhq/drover/shared/client"
	"github.com/droverhq/drover/shared/deadletter"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/tools/dev"
)

// The parts of the demo, as the report names them.
const (
	partMail     = "mail"
	partBulk     = "bulk"
	partUrgent   = "urgent"
	partWebhooks = "webhooks"
	partInvoice  = "invoice"
	partWork     = "work"
	partCrash    = "crash"
	partPhotos   = "photos"
)

// parts are all of them, in the order of the report.
var parts = []string{partMail, partBulk, partUrgent, partWebhooks, partInvoice, partWork, partCrash, partPhotos}

const (
	killer   = "the killer"
	invoice  = "invoice 1"
	tooLarge = "the large photo"
)

// play runs all acts: the killer, and then the photos, beside everything else, the
// others one after the other, so that a person can follow them.
func (d *demo) play(ctx context.Context) error {
	var wg sync.WaitGroup
	var crashErr error
	wg.Go(func() { crashErr = d.inOrder(ctx, d.playCrash, d.playPhotos) })
	err := d.inOrder(ctx, d.playMail, d.playBulk, d.playWebhooks, d.playRedrive)
	wg.Wait()
	if err == nil {
		err = crashErr
	}
	return err
}

func (d *demo) inOrder(ctx context.Context, acts ...func(context.Context) error) error {
	for _, act := range acts {
		if err := act(ctx); err != nil {
			return err
		}
	}
	return nil
}

// playMail sends mails of class default: ordinary ones, some that are put off
// once, and one to nobody.
func (d *demo) playMail(ctx context.Context) error {
	d.show.begin(partMail)
	var names []string
	for i := range d.size(40) {
		names = append(names, fmt.Sprintf("user-%02d@example.org", i+1))
	}
	for i := range d.size(3) {
		names = append(names, fmt.Sprintf("busy-%d@example.org", i+1))
	}
	names = append(names, "bounce-1@example.org")
	if err := d.mails(ctx, partMail, task.Default, "Welcome", names); err != nil {
		return err
	}
	if err := d.until(ctx, func() bool { t := d.ledger.tally(partMail); return t.open() == 0 }); err != nil {
		return fmt.Errorf("mail: %w", err)
	}
	d.show.end(partMail)
	return nil
}

// playBulk queues bulk mails, and sends urgent ones until they are done.
func (d *demo) playBulk(ctx context.Context) error {
	const (
		every      = 30 * time.Millisecond
		mostUrgent = 400
	)
	d.show.begin(partBulk)
	var names []string
	for i := range d.size(2000) {
		names = append(names, fmt.Sprintf("reader-%04d@example.org", i+1))
	}
	if err := d.mails(ctx, partBulk, task.Bulk, "News", names); err != nil {
		return err
	}
	d.show.begin(partUrgent)
	ticks := time.NewTicker(every)
	defer ticks.Stop()
	for n := 0; ; n++ {
		if t := d.ledger.tally(partBulk); t.open() == 0 || n == mostUrgent {
			break
		}
		name := fmt.Sprintf("reset-%03d@example.org", n+1)
		if err := d.publish(ctx, partUrgent, name, newMail(name, "Reset your password"), client.Class(task.Urgent)); err != nil {
			return err
		}
		select {
		case <-ticks.C:
		case <-ctx.Done():
			return fmt.Errorf("bulk under urgent: %w", context.Cause(ctx))
		}
	}
	if err := d.until(ctx, func() bool {
		b, u := d.ledger.tally(partBulk), d.ledger.tally(partUrgent)
		return b.open() == 0 && u.open() == 0
	}); err != nil {
		return fmt.Errorf("bulk under urgent: %w", err)
	}
	d.show.end(partBulk)
	d.show.end(partUrgent)
	return nil
}

// playWebhooks delivers to a receiver that dies and comes back, whose breaker opens
// meanwhile, and to another one that stays broken.
func (d *demo) playWebhooks(ctx context.Context) error {
	d.show.begin(partWebhooks)
	d.show.begin(partInvoice)
	d.billing.Fail("/billing", dev.Failure{Status: 500})
	if err := d.publish(ctx, partInvoice, invoice, d.delivery(d.billing, "/billing", "invoice.paid", 1)); err != nil {
		return err
	}
	moods := []struct {
		at   time.Duration
		mood dev.Failure
		say  string
	}{
		{time.Second, dev.Failure{Status: 503, RetryAfter: time.Second}, "the receiver is down: 503, Retry-After 1 s"},
		{2500 * time.Millisecond, dev.Failure{Hang: true}, "the receiver takes connections and never answers"},
		{4 * time.Second, dev.Failure{}, "the receiver is back"},
	}
	const lasts = 5 * time.Second
	total := d.size(100)
	begun := time.Now()
	ticks := time.NewTicker(lasts / time.Duration(total))
	defer ticks.Stop()
	for n := 0; n < total || len(moods) > 0; {
		if len(moods) > 0 && time.Since(begun) >= moods[0].at {
			d.hooks.Fail("/orders", moods[0].mood)
			d.show.say("%s", moods[0].say)
			moods = moods[1:]
			continue
		}
		if n < total {
			n++
			if err := d.publish(ctx, partWebhooks, fmt.Sprintf("order %d", n), d.delivery(d.hooks, "/orders", "order.paid", n)); err != nil {
				return err
			}
		}
		mood := time.NewTimer(time.Hour)
		if len(moods) > 0 {
			mood.Reset(max(0, moods[0].at-time.Since(begun)))
		}
		select {
		case <-ticks.C:
		case <-mood.C:
		case <-ctx.Done():
		}
		mood.Stop()
		if ctx.Err() != nil {
			return fmt.Errorf("webhooks: %w", context.Cause(ctx))
		}
	}
	if err := d.until(ctx, func() bool { t := d.ledger.tally(partWebhooks); return t.open() == 0 }); err != nil {
		return fmt.Errorf("webhooks: %w", err)
	}
	d.show.end(partWebhooks)
	return nil
}

// playRedrive waits until the invoice has spent its attempts, mends what it
// needed, and redrives it.
func (d *demo) playRedrive(ctx context.Context) error {
	if err := d.until(ctx, func() bool { t := d.ledger.tally(partInvoice); return t.open() == 0 }); err != nil {
		return fmt.Errorf("redrive: the invoice does not die: %w", err)
	}
	js := d.s.JetStream()
	for l, err := range deadletter.List(ctx, js, deadletter.Filter{Kind: "webhook.deliver", Reason: task.Failed}) {
		if err != nil {
			return fmt.Errorf("redrive: %w", err)
		}
		if d.ledger.name(l.ID) != invoice {
			continue
		}
		d.billing.Mend("/billing")
		d.show.say("/billing is mended; %s is redriven", invoice)
		d.ledger.redrive(l.ID)
		if _, err := deadletter.Redrive(ctx, js, l, deadletter.TracerProvider(d.o.TracerProvider)); err != nil {
			return err
		}
		if err := d.until(ctx, func() bool { return d.ledger.finished(l.ID) }); err != nil {
			return fmt.Errorf("redrive: %w", err)
		}
		d.mu.Lock()
		d.redriven = append(d.redriven, Redrive{ID: l.ID, Name: invoice, Reason: l.Reason, Attempts: l.Attempt, Generation: l.Generation + 1})
		d.mu.Unlock()
		d.show.end(partInvoice)
		return nil
	}
	return fmt.Errorf("redrive: there is no dead letter of %s", invoice)
}

// playCrash runs a task that kills its process each time, beside some that do not.
func (d *demo) playCrash(ctx context.Context) error {
	d.show.begin(partCrash)
	for i := range d.beside() {
		if i == besideFirst { // so that there are some running when it does
			if err := d.publish(ctx, partCrash, killer, crash{}); err != nil {
				return err
			}
		}
		if err := d.publish(ctx, partWork, fmt.Sprintf("work %d", i+1), work{Millis: 400}); err != nil {
			return err
		}
	}
	if err := d.until(ctx, func() bool {
		c, w := d.ledger.tally(partCrash), d.ledger.tally(partWork)
		return c.open() == 0 && w.open() == 0
	}); err != nil {
		return fmt.Errorf("crash: %w", err)
	}
	d.show.end(partCrash)
	return nil
}

// playPhotos runs tasks in processes of their own, one of which takes more memory than
// it may.
func (d *demo) playPhotos(ctx context.Context) error {
	d.show.begin(partPhotos)
	before, _ := d.deaths()
	for i := range usualPhotos + 1 {
		name, args := fmt.Sprintf("photo %d", i), photo{MiB: usualMiB}
		if i == 0 {
			name, args.MiB = tooLarge, largeMiB
		}
		if err := d.publish(ctx, partPhotos, name, args); err != nil {
			return err
		}
	}
	if err := d.until(ctx, func() bool { t := d.ledger.tally(partPhotos); return t.open() == 0 }); err != nil {
		return fmt.Errorf("photos: %w", err)
	}
	after, _ := d.deaths()
	d.mu.Lock()
	d.photos = after - before
	d.mu.Unlock()
	d.show.end(partPhotos)
	return nil
}

// usualPhotos is how many there are beside the one that is too large.
const usualPhotos = 3

// besideFirst is how many tasks start together with the killer: there are four slots.
const besideFirst = 3

// beside is how many tasks there are beside the killer.
func (d *demo) beside() int { return max(besideFirst+1, d.size(8)) }

// mails publishes one mail for each recipient, pipelined.
func (d *demo) mails(ctx context.Context, part string, c task.Class, subject string, names []string) error {
	all := make([]email.Send, len(names))
	for i, name := range names {
		all[i] = newMail(name, subject)
	}
	at := time.Now()
	outcomes, err := client.PublishAll(ctx, d.client, all, client.Class(c))
	for i, o := range outcomes {
		if o.Err == nil {
			d.ledger.publish(o.Receipt, part, names[i], c, at)
		}
	}
	if err != nil {
		return fmt.Errorf("publish %s: %w", part, err)
	}
	return nil
}

func newMail(to, subject string) email.Send {
	return email.Send{To: email.Addresses{to}, Subject: subject, Text: "It works.", HTML: "<p>It works.</p>"}
}

func (d *demo) delivery(to *dev.Receiver, path, event string, n int) webhook.Deliver {
	return webhook.Deliver{URL: to.URL() + path, Event: event, Payload: map[string]any{"id": n}}
}

// publish publishes one task.
func (d *demo) publish(ctx context.Context, part, name string, args task.Args, opts ...client.PublishOption) error {
	at := time.Now()
	r, err := d.client.Publish(ctx, args, opts...)
	if err != nil {
		return err
	}
	class := task.ClassOf(args)
	if part == partUrgent {
		class = task.Urgent
	}
	d.ledger.publish(r, part, name, class, at)
	return nil
}

const lookEvery = 20 * time.Millisecond

// until waits for something in the ledger.
func (d *demo) until(ctx context.Context, ok func() bool) error {
	ticks := time.NewTicker(lookEvery)
	defer ticks.Stop()
	for !ok() {
		select {
		case <-ticks.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}
