package hostshim

import (
	"google.golang.org/protobuf/proto"

	"antiphon/hostshim/rtnl"
	"antiphon/netstate"
	"antiphon/transport"

	"golang.org/x/sys/unix"
)

const (
	// maxDumps bounds the dumps that wait; an agent owes far fewer, since it
	// merges. One more is refused with EBUSY.
	maxDumps = 256
	// maxBarriers bounds the barriers that wait.
	maxBarriers = 64
)

// Do is what the loop has to do next.
type Do uint8

const (
	// Wait: nothing before the next input.
	Wait Do = iota
	// Send: Out must be sent.
	Send
	// ReadLive: read the notification socket once, report with Live.
	ReadLive
	// ReadDump: read the dump of Dumping once, starting it first if it has not
	// been started; report with Rows.
	ReadDump
	// ReadSettings: read settings and presences, report with Settings.
	ReadSettings
)

// Dump is a dump that the agent asked for.
type Dump struct {
	ID     uint64
	Kind   netstate.Kind
	Filter rtnl.Filter
}

// Mirror is the pure core of one session: it does no I/O, starts nothing and
// reads no clock. Inputs are its methods, Next says what to do, Out what to send.
// What it holds is a few messages, one of them of at most a block.
//
// The order it keeps:
//   - a dump begins on the wire before it is requested from the kernel, and ends
//     there after the notification socket was drained once more;
//   - after a loss the socket is drained, then Overrun is said;
//   - a barrier's Marker comes after a drain and after settings that were read
//     since the barrier was asked for.
//
// Live messages and dumps take turns, so that neither starves the other.
type Mirror struct {
	seq    uint64
	credit int64
	// backlog is the most bytes that can have been queued in the notification
	// socket at once: after reading that much, everything that was queued at
	// some moment has been read, even if new messages never stop coming.
	backlog uint64

	out       []*transport.FromShim
	liveBytes uint64
	readable  bool
	lost      uint64

	queue    []Dump
	dump     *running
	dumpTurn bool

	settingsDue bool
	settings    *transport.Settings
	barriers    []barrier
}

// running is the dump in progress.
type running struct {
	Dump
	rows        uint64
	interrupted bool
	errno       unix.Errno
	ended       bool
	since       uint64 // liveBytes when the kernel said the last of it
}

// barrier waits first for a drain, then for settings.
type barrier struct {
	id      uint64
	since   uint64
	drained bool
}

// NewMirror is the core of a session that has been granted so many bytes of
// credit. backlog is the notification socket's buffer (rtnl.Live.Buffer).
func NewMirror(credit uint32, backlog int) *Mirror {
	return &Mirror{credit: int64(credit), backlog: uint64(backlog), settingsDue: true, readable: true}
}

// Next says what to do now.
func (m *Mirror) Next() Do {
	if len(m.out) > 0 {
		return Send
	}
	if m.settingsDue || m.drainedBarrier() {
		return ReadSettings
	}
	if m.credit <= 0 {
		// The window is full: nothing is read, the kernel keeps what it can and
		// says so when it could not.
		return Wait
	}
	if m.dump == nil && len(m.queue) > 0 {
		m.begin()
		return Send
	}
	live := m.readable || m.lost > 0 || m.undrainedBarrier() || (m.dump != nil && m.dump.ended)
	dump := m.dump != nil && !m.dump.ended
	switch {
	case dump && (m.dumpTurn || !live):
		return ReadDump
	case live:
		return ReadLive
	}
	return Wait
}

// Out removes and returns the message to send. Its bytes are those that Live or
// Rows got, so it must be sent before the next read into the same buffer.
func (m *Mirror) Out() *transport.FromShim {
	msg := m.out[0]
	m.out[0] = nil
	m.out = m.out[1:]
	return msg
}

// Dumping is the dump to read.
func (m *Mirror) Dumping() Dump { return m.dump.Dump }

// Readable says that the notification socket has something to read.
func (m *Mirror) Readable() { m.readable = true }

// Idle reports whether the notification socket has been drained and nobody said
// Readable since.
func (m *Mirror) Idle() bool { return !m.readable }

// Credit adds to the window.
func (m *Mirror) Credit(bytes uint32) { m.credit += int64(bytes) }

// SettingsDue says that settings or presences may have changed.
func (m *Mirror) SettingsDue() { m.settingsDue = true }

// Barrier asks for a Marker.
func (m *Mirror) Barrier(id uint64) {
	if len(m.barriers) >= maxBarriers {
		m.push(&transport.FromShim{Msg: &transport.FromShim_Answer{Answer: &transport.Answer{
			Id: id, Exit: transport.ExitNegative, Error: "too many barriers wait already"}}})
		return
	}
	m.barriers = append(m.barriers, barrier{id: id, since: m.liveBytes})
}

// Dump asks for a dump.
func (m *Mirror) Dump(d *transport.Dump) {
	refuse := func(errno unix.Errno) {
		m.order(&transport.FromShim{Msg: &transport.FromShim_DumpEnd{DumpEnd: &transport.DumpEnd{
			Id: d.GetId(), Kind: d.GetKind(), Errno: uint32(errno)}}})
	}
	switch {
	case d.GetId() == 0 || d.GetKind() > 0xff || d.GetFilterFamily() > 0xff:
		refuse(unix.EINVAL)
	case len(m.queue) >= maxDumps:
		refuse(unix.EBUSY)
	default:
		m.queue = append(m.queue, Dump{ID: d.GetId(), Kind: netstate.Kind(d.GetKind()), Filter: rtnl.Filter{
			Family: uint8(d.GetFilterFamily()), Table: d.GetFilterTable(), Oif: d.GetFilterOif()}})
	}
}

// begin puts the beginning of the next dump on the wire.
func (m *Mirror) begin() {
	d := m.queue[0]
	m.queue = m.queue[1:]
	m.dump = &running{Dump: d}
	m.block(&transport.Block{Dump: d.ID, Kind: uint32(d.Kind), First: true,
		FilterFamily: uint32(d.Filter.Family), FilterTable: d.Filter.Table, FilterOif: d.Filter.Oif})
}

// Live is the result of ReadLive.
func (m *Mirror) Live(block []byte, r rtnl.Result) {
	m.dumpTurn = true
	if len(block) > 0 {
		m.liveBytes += uint64(len(block))
		m.block(&transport.Block{Bytes: block})
	}
	if r.Lost > 0 {
		m.lost += r.Lost
		if m.dump != nil {
			// A deletion may be among what was lost.
			m.dump.interrupted = true
		}
	}
	m.readable = !r.Drained
	if r.Drained && m.lost > 0 {
		m.order(&transport.FromShim{Msg: &transport.FromShim_Overrun{Overrun: &transport.Overrun{Count: m.lost}}})
		m.lost, m.settingsDue = 0, true
	}
	for i := range m.barriers {
		b := &m.barriers[i]
		b.drained = b.drained || m.lost == 0 && (r.Drained || m.liveBytes-b.since >= m.backlog)
	}
	if d := m.dump; d != nil && d.ended && (r.Drained || m.liveBytes-d.since >= m.backlog) {
		m.order(&transport.FromShim{Msg: &transport.FromShim_DumpEnd{DumpEnd: &transport.DumpEnd{
			Id: d.ID, Kind: uint32(d.Kind), Rows: d.rows, Interrupted: d.interrupted, Errno: uint32(d.errno)}}})
		m.dump = nil
	}
}

// Rows is the result of ReadDump.
func (m *Mirror) Rows(block []byte, p rtnl.Progress) {
	m.dumpTurn = false
	d := m.dump
	d.rows += p.Rows
	d.interrupted = d.interrupted || p.Interrupted
	d.errno = p.Errno
	if len(block) > 0 {
		m.block(&transport.Block{Dump: d.ID, Kind: uint32(d.Kind), Last: p.Done, Bytes: block})
	}
	if p.Done {
		d.ended, d.since = true, m.liveBytes
	}
}

// Settings is the result of ReadSettings: what was read since Next asked for it.
func (m *Mirror) Settings(s *transport.Settings) {
	m.settingsDue = false
	if m.settings == nil || !proto.Equal(m.settings, s) {
		m.settings = s
		m.order(&transport.FromShim{Msg: &transport.FromShim_Settings{Settings: s}})
	}
	kept := m.barriers[:0]
	for _, b := range m.barriers {
		if !b.drained {
			kept = append(kept, b)
			continue
		}
		m.order(&transport.FromShim{Msg: &transport.FromShim_Marker{Marker: &transport.Marker{Id: b.id}}})
		m.push(&transport.FromShim{Msg: &transport.FromShim_Answer{Answer: &transport.Answer{Id: b.id}}})
	}
	m.barriers = kept
}

func (m *Mirror) drainedBarrier() bool {
	for _, b := range m.barriers {
		if b.drained {
			return true
		}
	}
	return false
}

func (m *Mirror) undrainedBarrier() bool {
	for _, b := range m.barriers {
		if !b.drained {
			return true
		}
	}
	return false
}

// block sends a block and pays for it.
func (m *Mirror) block(b *transport.Block) {
	m.credit -= int64(len(b.GetBytes()))
	m.order(&transport.FromShim{Msg: &transport.FromShim_Block{Block: b}})
}

// order sends a message that is part of the mirror.
func (m *Mirror) order(msg *transport.FromShim) {
	m.seq++
	msg.Seq = m.seq
	m.push(msg)
}

func (m *Mirror) push(msg *transport.FromShim) { m.out = append(m.out, msg) }
