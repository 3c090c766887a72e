package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rs/zerolog"

	"antiphon/agent/replica"
	"antiphon/agent/resolve"
	"antiphon/hwmodel"
	"antiphon/netstate"
	"antiphon/transport"
)

// core is all state of the agent and every decision. It does no I/O and starts
// nothing; the loop in agent.go is the only one to touch it.
//
// The device is written when the mirror may speak for the kernel: not before the
// first snapshot is complete (released), so that a warm device goes on as it is
// and a cold one traps. While the mirror is in doubt the resolver traps everything.
type core struct {
	cfg Config
	log zerolog.Logger
	now time.Time

	replica  *replica.Replica
	resolver *resolve.Resolver
	links    map[uint32]linkName

	auth        authority
	epoch       uint64
	session     *session
	sessionLost time.Time // when session became nil
	lastGood    time.Time // when the mirror last spoke for the kernel
	lastSeq     uint64    // the last ordered message taken in
	lastChange  time.Time
	lastAudit   time.Time
	overruns    uint64
	lastAsk     uint64

	device      deviceState
	batch       *hwmodel.Batch // made, not yet handed over
	inFlight    *hwmodel.Batch // handed over, not yet applied
	batchSeq    uint64         // what batch and inFlight cover
	programmed  uint64         // everything up to here is in the device or refused
	released    bool
	doubt       string // why everything traps, "" if it need not
	unmirrored  error  // the last row that could not be resolved
	unmirroredN uint64

	counts   counts
	out      outbox
	outgoing *transport.FromAgent
	barriers map[uint64]*barrier
}

// deviceState is what the core knows about the device.
type deviceState struct {
	up       bool
	adopted  bool // at least once
	lost     time.Time
	err      error
	caps     hwmodel.Capabilities
	applied  uint64 // batches
	refusals int    // of the last batches, for people
}

// linkName is how people call an interface.
type linkName struct {
	name string
	port string // the device port whose representor it is, "" if none
}

func newCore(cfg Config, now time.Time) *core {
	return &core{
		cfg: cfg, log: cfg.Log, now: now,
		replica:     replica.New(replica.Options{Predict: cfg.Predict}),
		resolver:    resolve.New(hwmodel.Capabilities{}),
		links:       map[uint32]linkName{},
		sessionLost: now, lastGood: now, lastAudit: now, lastChange: now,
		device:   deviceState{lost: now, err: errors.New("not connected yet")},
		counts:   newCounts(),
		barriers: map[uint64]*barrier{},
	}
}

// admit decides about a Hello and makes s the session.
func (c *core) admit(s *session) (*transport.Welcome, error) {
	old := c.auth.held
	if err := c.auth.admit(s.hello); err != nil {
		c.log.Warn().Err(err).Str("peer", s.peer).Msg("session refused")
		return nil, err
	}
	c.dropSession(errFenced)
	if h := s.hello; old != nil && (old.GetBootId() != h.GetBootId() || old.GetHostId() != h.GetHostId() || old.GetNetnsCookie() != h.GetNetnsCookie()) {
		c.distrust("the mirror is of another host, boot or namespace")
	}
	c.epoch++
	c.session = s
	c.lastSeq, c.programmed, c.batchSeq = 0, 0, 0
	c.replica.Resync()
	c.counts.resend()
	c.resolver.Recount()
	c.log.Info().Uint64("epoch", c.epoch).Str("peer", s.peer).Str("host", s.hello.GetHostId()).
		Str("kernel", s.hello.GetKernelRelease()).Msg("session begins")
	return &transport.Welcome{Version: protocolVersion, Epoch: c.epoch, CreditBytes: transport.DefaultCredit}, nil
}

// lost says that a session has ended by itself.
func (c *core) lost(s *session) {
	if s == c.session {
		c.dropSession(nil)
	}
}

// dropSession ends the session; the device stays as it is.
func (c *core) dropSession(why error) {
	if c.session == nil {
		return
	}
	c.log.Warn().Uint64("epoch", c.epoch).AnErr("cause", context.Cause(c.session.ctx)).Msg("session ends")
	c.session.end(why)
	c.session, c.outgoing = nil, nil
	c.sessionLost = c.now
	c.out = outbox{counters: c.out.counters} // a row's last count is told once
	for _, b := range c.barriers {
		b.asked, b.marked = false, false
	}
}

// receive takes in one message of the session. What it cannot accept ends the
// session: the shim connects again and the mirror starts with a snapshot.
func (c *core) receive(s *session, m *transport.FromShim) {
	if s != c.session {
		return // of a session that is over
	}
	if err := c.take(m); err != nil {
		c.log.Error().Err(err).Uint64("seq", m.GetSeq()).Msg("bad message")
		s.end(err)
	}
}

func (c *core) take(m *transport.FromShim) error {
	seq := m.GetSeq()
	if seq != 0 {
		if seq != c.lastSeq+1 {
			return fmt.Errorf("sequence number %d after %d: messages are missing", seq, c.lastSeq)
		}
		c.lastSeq = seq
	}
	switch msg := m.GetMsg().(type) {
	case *transport.FromShim_Block:
		b := msg.Block
		c.out.credit += uint32(len(b.GetBytes()))
		if n := len(b.GetBytes()); n > transport.MaxBlock {
			return fmt.Errorf("block of %d bytes, at most %d are taken", n, transport.MaxBlock)
		}
		return c.replica.Block(seq, b)
	case *transport.FromShim_DumpEnd:
		return c.replica.DumpEnd(seq, msg.DumpEnd)
	case *transport.FromShim_Settings:
		c.resolver.Settings(c.replica.Settings(seq, msg.Settings))
		c.lastChange = c.now
	case *transport.FromShim_Marker:
		if b := c.barriers[msg.Marker.GetId()]; b != nil {
			b.marked, b.seq = true, seq
		}
	case *transport.FromShim_Overrun:
		c.overruns++
		c.replica.Overrun(seq, msg.Overrun)
		c.distrust("notifications were lost (overrun); the kernel is being read again")
	case *transport.FromShim_Event:
		return c.replica.Event(seq, msg.Event)
	default:
		return fmt.Errorf("message %T is not expected within a session", m.GetMsg())
	}
	return nil
}

// current says that the mirror speaks for the kernel as it is.
func (c *core) current() bool {
	return c.session != nil && c.replica.CaughtUp() && c.replica.LastSettings() != nil
}

// distrust traps everything until the mirror is caught up.
func (c *core) distrust(why string) {
	c.doubt = why
	c.resolver.Resync(true)
}

// advance does everything that can be done now, and leaves in batch and outgoing
// what the loop is to hand over.
func (c *core) advance() {
	if c.device.adopted {
		c.resolveChanges()
	}
	if c.current() {
		if !c.released {
			c.released = true
			c.log.Info().Uint64("seq", c.lastSeq).Msg("snapshot complete")
		}
		if c.doubt != "" {
			c.doubt = ""
			c.resolver.Resync(false)
		}
	}
	c.program()
	if c.session != nil {
		c.out.dumps = append(c.out.dumps, c.replica.Dumps()...)
		c.out.acknowledge(c.programmed)
		c.askBarriers()
		if c.outgoing == nil {
			c.outgoing = c.out.next()
		}
	}
	c.checkBarriers()
}

// resolveChanges passes on what changed in the mirror.
func (c *core) resolveChanges() {
	changes := c.replica.Changes()
	for _, ch := range changes {
		if ch.Key.Kind == netstate.KindLink {
			c.nameLink(ch)
		}
		if err := c.resolver.Change(ch); err != nil {
			c.unmirrored, c.unmirroredN = err, c.unmirroredN+1
			c.log.Warn().Err(err).Msg("row is not understood; it traps")
		}
		c.out.fate(ch.Key)
	}
	if len(changes) > 0 {
		c.lastChange = c.now
	}
}

func (c *core) nameLink(ch netstate.Change) {
	if ch.Row == nil {
		delete(c.links, ch.Key.ID)
		return
	}
	if n, err := decodeLinkName(ch.Row); err == nil {
		c.links[ch.Key.ID] = n
	}
}

// program makes the next batch when the device can take one.
func (c *core) program() {
	if !c.device.up || !c.released || c.batch != nil || c.inFlight != nil {
		return
	}
	if c.batch = c.resolver.Next(); c.batch != nil {
		c.batchSeq = c.lastSeq
		return
	}
	if c.programmed != c.lastSeq {
		c.programmed = c.lastSeq
		c.out.resolveFates(c.resolver)
	}
}

// handedOver says that the device's loop has taken the batch.
func (c *core) handedOver() { c.inFlight, c.batch = c.batch, nil }

// applied takes in the outcome of the batch in flight.
func (c *core) applied(b *hwmodel.Batch, res hwmodel.Result) {
	if b != c.inFlight {
		return // the device was lost meanwhile; it will be read back
	}
	c.inFlight = nil
	c.device.applied++
	c.device.refusals = len(res.Refused)
	c.resolver.Applied(res)
}

// deviceUp takes in what the device is and really holds.
func (c *core) deviceUp(caps hwmodel.Capabilities, held *hwmodel.Entries) {
	c.device.up, c.device.adopted, c.device.err = true, true, nil
	c.device.caps = caps
	c.batch, c.inFlight = nil, nil
	c.resolver.Adopt(caps, held)
	c.counts.ports = nil
	if c.released && c.session != nil && !c.replica.CaughtUp() && held.Settings == nil {
		c.distrust("the device started anew before the snapshot was complete")
	}
}

// deviceDown says that the device cannot be reached: what it holds is not known.
func (c *core) deviceDown(err error) {
	if c.device.up {
		c.device.up = false
		c.device.lost = c.now
	}
	c.device.err = err
	c.batch, c.inFlight = nil, nil
}

// tick looks at the clock.
func (c *core) tick(now time.Time) {
	c.now = now
	switch {
	case c.current():
		c.lastGood = now
	case c.doubt == "" && now.Sub(c.lastGood) > c.cfg.Grace:
		// Sessions that begin and end, or never complete a snapshot, are no better
		// than none.
		why := fmt.Sprintf("no shim for longer than %s", c.cfg.Grace)
		if c.session != nil {
			why = fmt.Sprintf("no complete snapshot for longer than %s", c.cfg.Grace)
		}
		c.distrust(why)
		c.released = true
		c.log.Warn().Str("cause", why).Msg("everything traps")
	}
	if c.session != nil && c.cfg.AuditInterval > 0 && now.Sub(c.lastAudit) > c.cfg.AuditInterval && c.replica.Settled() {
		c.lastAudit = now
		c.replica.RequestAudit()
	}
	c.expireBarriers()
}
