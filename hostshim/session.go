package hostshim

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"antiphon/hostshim/rtnl"
	"antiphon/transport"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
)

const (
	// settingsEvery is how often settings are read when nobody says that they
	// changed: most sysctls have no notification.
	settingsEvery = 200 * time.Millisecond
	// settingsSpacing is the least time between two readings for notifications,
	// so that a storm of them does not become a storm of readings.
	settingsSpacing = 10 * time.Millisecond
	// maxInbox is how many messages of the agent wait for the loop.
	maxInbox = 64
)

// errLocal marks failures of this host, which no other session would cure.
var errLocal = errors.New("the shim cannot go on")

// session is one life of the stream.
type session struct {
	*Shim
	ctx      context.Context
	stream   transport.Agent_SessionClient
	mirror   *Mirror
	inbox    chan *transport.FromAgent
	ended    chan error               // the receiver's last word
	outside  chan *transport.FromShim // from goroutines of this session
	answers  *answers
	verifies chan struct{} // one token: one verify at a time
	workers  sync.WaitGroup

	started  uint64 // id of the dump that the dumper is at
	armed    bool
	lastRead time.Time
	delayed  *time.Timer // a reading of settings that was put off
}

// session runs one session; granted tells whether the agent took it.
func (s *Shim) session(parent context.Context, conn *grpc.ClientConn) (granted bool, err error) {
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	stream, err := transport.NewAgentClient(conn).Session(ctx)
	if err != nil {
		return false, fmt.Errorf("open session: %w", err)
	}
	if err := stream.Send(&transport.FromShim{Msg: &transport.FromShim_Hello{Hello: s.hello}}); err != nil {
		return false, receiveError(stream, err)
	}
	c := &session{
		Shim: s, ctx: ctx, stream: stream,
		inbox:    make(chan *transport.FromAgent, maxInbox),
		ended:    make(chan error, 1),
		outside:  make(chan *transport.FromShim),
		answers:  newAnswers(ctx),
		verifies: make(chan struct{}, 1),
		delayed:  time.NewTimer(0),
	}
	<-c.delayed.C
	defer c.delayed.Stop()
	c.workers.Go(func() { c.ended <- c.receive() })
	defer func() { cancel(); c.workers.Wait() }()

	welcome, err := c.welcome()
	if err != nil {
		return false, err
	}
	// Whatever was queued is older than the dumps that begin now.
	if err := s.discard(); err != nil {
		return true, err
	}
	credit := welcome.GetCreditBytes()
	if credit == 0 {
		credit = transport.DefaultCredit
	}
	c.mirror = NewMirror(credit, s.live.Buffer())
	s.log.Info().Uint64("epoch", welcome.GetEpoch()).Uint64("connection", s.hello.GetConnection()).Msg("session begins")
	return true, c.loop()
}

// receiveError is what the agent ended the stream with, after Send failed.
func receiveError(stream transport.Agent_SessionClient, err error) error {
	if _, why := stream.Recv(); why != nil {
		err = why
	}
	return fmt.Errorf("session: %w", err)
}

// welcome waits for the agent's verdict.
func (c *session) welcome() (*transport.Welcome, error) {
	deadline := time.NewTimer(transport.HandshakeTimeout)
	defer deadline.Stop()
	select {
	case <-c.ctx.Done():
		return nil, c.ctx.Err()
	case <-deadline.C:
		return nil, fmt.Errorf("session: no welcome within %s", transport.HandshakeTimeout)
	case err := <-c.ended:
		// Fenced may be the last thing it said.
		select {
		case m := <-c.inbox:
			if f := m.GetFenced(); f != nil {
				return nil, fenced(f)
			}
		default:
		}
		return nil, err
	case m := <-c.inbox:
		if f := m.GetFenced(); f != nil {
			return nil, fenced(f)
		}
		w := m.GetWelcome()
		if w == nil {
			return nil, fmt.Errorf("session: the agent begins with %T, want welcome", m.GetMsg())
		}
		if v := w.GetVersion(); v < transport.MinVersion || v > transport.Version {
			return nil, fmt.Errorf("session: the agent chose version %d, this shim speaks %d to %d", v, transport.MinVersion, transport.Version)
		}
		return w, nil
	}
}

func fenced(f *transport.Fenced) error { return fmt.Errorf("%w (%s)", ErrFenced, f.GetReason()) }

// receive moves the agent's messages to the loop; answers go to who asked.
func (c *session) receive() error {
	for {
		m, err := c.stream.Recv()
		if err != nil {
			return fmt.Errorf("session: %w", err)
		}
		if a := m.GetAnswer(); a != nil {
			c.answers.deliver(a)
			continue
		}
		select {
		case c.inbox <- m:
		case <-c.ctx.Done():
			return c.ctx.Err()
		}
	}
}

// discard empties the notification socket.
func (s *Shim) discard() error {
	for bytes := 0; bytes < s.live.Buffer(); {
		block, r, err := s.live.Read(s.block[:0])
		if err != nil {
			return fmt.Errorf("%w: %w", errLocal, err)
		}
		if r.Drained {
			return nil
		}
		bytes += len(block)
	}
	return nil
}

// loop does what the core says and feeds it what happens.
func (c *session) loop() error {
	tick := time.NewTicker(settingsEvery)
	defer tick.Stop()
	now := make(chan struct{}) // always ready: a take that does not wait
	close(now)
	for {
		do := c.mirror.Next()
		if err := c.act(do); err != nil {
			return err
		}
		if do == Wait {
			if c.mirror.Idle() && !c.armed {
				c.armed = true
				signal(c.arm)
			}
			if err := c.take(tick.C, nil); err != nil {
				return err
			}
			continue
		}
		if err := c.take(tick.C, now); err != nil {
			return err
		}
	}
}

// act does one thing.
func (c *session) act(do Do) error {
	switch do {
	case Send:
		return c.send(c.mirror.Out())
	case ReadLive:
		block, r, err := c.live.Read(c.block[:0])
		if err != nil {
			return fmt.Errorf("%w: %w", errLocal, err)
		}
		if r.Lost > 0 {
			c.log.Warn().Uint64("lost", r.Lost).Msg("notifications were lost; the agent will dump again")
		}
		c.mirror.Live(block, r)
		if r.Settings {
			c.settingsChanged()
		}
	case ReadDump:
		d := c.mirror.Dumping()
		if c.started != d.ID {
			c.started = d.ID
			err := c.dumper.Start(d.Kind, d.Filter)
			if err != nil && !errors.Is(err, rtnl.ErrRequest) {
				return fmt.Errorf("%w: %w", errLocal, err)
			}
			if err != nil {
				c.log.Error().Err(err).Msg("the agent asks for an impossible dump")
				c.mirror.Rows(nil, rtnl.Progress{Done: true, Errno: unix.EINVAL})
				return nil
			}
		}
		block, p, err := c.dumper.Read(c.block[:0])
		if err != nil {
			return fmt.Errorf("%w: %w", errLocal, err)
		}
		if p.Done {
			c.started = 0
		}
		c.mirror.Rows(block, p)
	case ReadSettings:
		c.lastRead = time.Now()
		c.mirror.Settings(c.survey.read())
	}
	return nil
}

// take handles one thing that happened; with a nil now it waits for one.
func (c *session) take(tick <-chan time.Time, now <-chan struct{}) error {
	select {
	case err := <-c.ended:
		return c.drainInbox(err)
	case m := <-c.inbox:
		return c.handle(m)
	case m := <-c.outside:
		return c.send(m)
	case q := <-c.asks:
		return c.send(c.answers.ask(q))
	case <-c.readable:
		c.armed = false
		c.mirror.Readable()
	case <-c.changed:
		c.settingsChanged()
	case <-c.delayed.C:
		c.mirror.SettingsDue()
	case <-tick:
		c.mirror.SettingsDue()
	case <-now:
	}
	return nil
}

// drainInbox looks whether the stream ended with Fenced.
func (c *session) drainInbox(err error) error {
	for {
		select {
		case m := <-c.inbox:
			if f := m.GetFenced(); f != nil {
				return fenced(f)
			}
		default:
			return err
		}
	}
}

// settingsChanged reads settings at once, or a little later when they were read
// just now.
func (c *session) settingsChanged() {
	if wait := settingsSpacing - time.Since(c.lastRead); wait > 0 {
		c.delayed.Reset(wait)
		return
	}
	c.mirror.SettingsDue()
}

func (c *session) send(m *transport.FromShim) error {
	if err := c.stream.Send(m); err != nil {
		// The receiver knows why.
		select {
		case why := <-c.ended:
			return c.drainInbox(why)
		case <-c.ctx.Done():
			return c.ctx.Err()
		}
	}
	return nil
}

// handle takes a message of the agent.
func (c *session) handle(m *transport.FromAgent) error {
	switch msg := m.GetMsg().(type) {
	case *transport.FromAgent_Credit:
		c.mirror.Credit(msg.Credit.GetBytes())
	case *transport.FromAgent_Dump:
		c.mirror.Dump(msg.Dump)
	case *transport.FromAgent_Ask:
		return c.asked(msg.Ask)
	case *transport.FromAgent_Counters:
		if c.counters == nil {
			return nil
		}
		if err := c.counters.Write(msg.Counters); err != nil {
			c.log.Warn().Err(err).Msg("counters")
		}
	case *transport.FromAgent_Use:
		if err := c.use.Use(msg.Use.GetNeighbors()); err != nil {
			c.log.Warn().Err(err).Msg("neighbours in use")
		}
	case *transport.FromAgent_Ack:
		c.hello.HighestAck = max(c.hello.GetHighestAck(), msg.Ack.GetDurable())
	case *transport.FromAgent_Fates:
		// Nobody at the host asks for them yet; `show` asks the agent.
	case *transport.FromAgent_Fenced:
		return fenced(msg.Fenced)
	default:
		return fmt.Errorf("session: unexpected %T from the agent", m.GetMsg())
	}
	return nil
}

// asked takes a question of the agent.
func (c *session) asked(a *transport.Ask) error {
	switch a.GetVerb() {
	case transport.VerbBarrier:
		c.mirror.Barrier(a.GetId())
		return nil
	case transport.VerbVerify:
		select {
		case c.verifies <- struct{}{}:
			c.workers.Go(func() {
				defer func() { <-c.verifies }()
				c.verify(a.GetId())
			})
			return nil
		default:
			return c.send(answer(a.GetId(), transport.ExitNegative, "a verify is under way already"))
		}
	}
	return c.send(answer(a.GetId(), transport.ExitSkew, fmt.Sprintf("the shim does not know the question %q", a.GetVerb())))
}

func answer(id uint64, exit uint32, problem string) *transport.FromShim {
	return &transport.FromShim{Msg: &transport.FromShim_Answer{Answer: &transport.Answer{Id: id, Exit: exit, Error: problem}}}
}
