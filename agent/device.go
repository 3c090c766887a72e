package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rs/zerolog"

	"antiphon/hwmodel"
)

const (
	// pollInterval is how often counters are read.
	pollInterval = 200 * time.Millisecond
	// deviceRetry is the pause before a device that failed is tried again.
	deviceRetry = 100 * time.Millisecond
	// callTimeout bounds a short question to the device, applyTimeout a batch and
	// a whole read-back (a million entries take a few seconds).
	callTimeout  = 2 * time.Second
	applyTimeout = 60 * time.Second
)

// deviceLoop is the goroutine that talks to the device, one call at a time, so
// that a counter reading never overtakes the batch that ended the counter.
type deviceLoop struct {
	dev   hwmodel.Device
	log   zerolog.Logger
	post  func(context.Context, func(*core)) error
	work  chan *hwmodel.Batch
	polls chan chan struct{}
}

func newDeviceLoop(dev hwmodel.Device, log zerolog.Logger, post func(context.Context, func(*core)) error) *deviceLoop {
	return &deviceLoop{dev: dev, log: log, post: post, work: make(chan *hwmodel.Batch), polls: make(chan chan struct{})}
}

var errDeviceRestarted = errors.New("the device has started anew")

func (d *deviceLoop) run(ctx context.Context) error {
	said := ""
	for ctx.Err() == nil {
		caps, held, err := d.open(ctx)
		if err == nil {
			said = ""
			d.log.Info().Str("model", caps.Name).Int("ports", len(caps.Ports)).Int("entries", held.Len()).Msg("device connected")
			if err = d.post(ctx, func(c *core) { c.deviceUp(caps, held) }); err == nil {
				err = d.serve(ctx, caps.Instance)
			}
		}
		if ctx.Err() != nil {
			break
		}
		if err.Error() != said {
			said = err.Error()
			d.log.Warn().Err(err).Msg("device lost")
		}
		if d.post(ctx, func(c *core) { c.deviceDown(err) }) != nil {
			break
		}
		d.pause(ctx)
	}
	return nil
}

// pause waits before the next attempt; whoever asks for a poll gets one sooner.
func (d *deviceLoop) pause(ctx context.Context) {
	t := time.NewTimer(deviceRetry)
	defer t.Stop()
	for {
		select {
		case done := <-d.polls:
			close(done) // nothing to read
		case <-t.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// open learns what the device is and what it really holds.
func (d *deviceLoop) open(ctx context.Context) (hwmodel.Capabilities, *hwmodel.Entries, error) {
	short, cancel := context.WithTimeout(ctx, callTimeout)
	caps, err := d.dev.Capabilities(short)
	cancel()
	if err != nil {
		return caps, nil, fmt.Errorf("ask the device for its capabilities: %w", err)
	}
	long, cancel := context.WithTimeout(ctx, applyTimeout)
	defer cancel()
	held, err := ReadBack(long, d.dev)
	return caps, held, err
}

// ReadBack reads everything a device holds.
func ReadBack(ctx context.Context, dev hwmodel.Device) (*hwmodel.Entries, error) {
	all := &hwmodel.Entries{}
	err := dev.Entries(ctx, func(e *hwmodel.Entries) bool {
		if e.Settings != nil {
			s := *e.Settings
			all.Settings = &s
		}
		all.Interfaces = append(all.Interfaces, e.Interfaces...)
		all.Neighbors = append(all.Neighbors, e.Neighbors...)
		all.NextHops = append(all.NextHops, e.NextHops...)
		all.Groups = append(all.Groups, e.Groups...)
		all.Routes = append(all.Routes, e.Routes...)
		all.Rules = append(all.Rules, e.Rules...)
		all.Own = append(all.Own, e.Own...)
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("read the device's entries: %w", err)
	}
	return all, nil
}

// serve applies batches and reads counters until something fails.
func (d *deviceLoop) serve(ctx context.Context, instance uint64) error {
	var since uint64
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case b := <-d.work:
			call, cancel := context.WithTimeout(ctx, applyTimeout)
			res, err := d.dev.Apply(call, b)
			cancel()
			if err != nil {
				return fmt.Errorf("apply a batch of %d sets and %d deletes: %w", b.Set.Len(), b.Delete.Len(), err)
			}
			if err := d.post(ctx, func(c *core) { c.applied(b, res) }); err != nil {
				return err
			}
		case <-tick.C:
			if err := d.read(ctx, instance, &since); err != nil {
				return err
			}
		case done := <-d.polls:
			err := d.read(ctx, instance, &since)
			if err != nil {
				// The core must know before the one who asked looks at it.
				if perr := d.post(ctx, func(c *core) { c.deviceDown(err) }); perr != nil {
					err = perr
				}
			}
			close(done)
			if err != nil {
				return err
			}
		}
	}
}

// read makes sure that the device is the one that was read back, and passes on
// its counters.
func (d *deviceLoop) read(ctx context.Context, instance uint64, since *uint64) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	caps, err := d.dev.Capabilities(ctx)
	if err != nil {
		return fmt.Errorf("ask the device for its capabilities: %w", err)
	}
	if caps.Instance != instance {
		return errDeviceRestarted
	}
	report, err := d.dev.Counters(ctx, *since)
	if err != nil {
		return fmt.Errorf("read the device's counters: %w", err)
	}
	*since = report.Now
	return d.post(ctx, func(c *core) { c.counters(report) })
}

// poll reads the counters now and returns when the core has them, or knows that
// the device is gone.
func (d *deviceLoop) poll(ctx context.Context) error {
	done := make(chan struct{})
	select {
	case d.polls <- done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
