package agent

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"antiphon/agent/replica"
	"antiphon/agent/resolve"
	"antiphon/hwmodel"
	"antiphon/netstate"
	"antiphon/transport"
)

// View is a look into the agent's state. It is valid only within the function
// that Agent.View calls; rows and settings are values and may be kept.
type View struct{ c *core }

// View lets f look at the agent's state, between two steps of its loop: f must
// be quick.
func (a *Agent) View(ctx context.Context, f func(View)) error {
	return a.do(ctx, func(c *core) { f(View{c}) })
}

// Rows are the mirrored rows of a kind, the oldest key first.
func (v View) Rows(k netstate.Kind) iter.Seq[*netstate.Row] {
	return func(yield func(*netstate.Row) bool) { v.c.replica.Each(k, yield) }
}

// Row returns one mirrored row, nil if there is none.
func (v View) Row(k netstate.Key) *netstate.Row { return v.c.replica.Row(k) }

// Fate is what became of a row. A row that the resolver has not seen yet is not
// programmed.
func (v View) Fate(k netstate.Key) resolve.Fate {
	f, ok := v.c.resolver.Fate(k)
	switch {
	case !ok && !v.c.device.adopted:
		return resolve.Fate{Standing: resolve.Trapped, Reason: hwmodel.ReasonNotProgrammed, Detail: "the device has not been reached yet"}
	case !ok:
		return resolve.Fate{Standing: resolve.Trapped, Reason: hwmodel.ReasonNotProgrammed, Detail: "not resolved yet"}
	}
	f.Detail = strings.TrimSuffix(f.Detail, "; ")
	return f
}

// Count is what went through the device on behalf of a row; for the link that is
// a port's representor, what the port received.
func (v View) Count(k netstate.Key) resolve.ObjectCount {
	if k.Kind != netstate.KindLink {
		return v.c.resolver.Count(k)
	}
	n := resolve.ObjectCount{Key: k, Generation: 1}
	if p, ok := v.Port(v.c.links[k.ID].port); ok {
		for _, x := range v.c.counts.ports {
			if x.Port == p.ID {
				n.Packets, n.Bytes = x.RX.Packets, x.RX.Bytes
			}
		}
	}
	return n
}

// LinkName is an interface's name, "if7" if it is not known.
func (v View) LinkName(index uint32) string {
	if l, ok := v.c.links[index]; ok {
		return l.name
	}
	return fmt.Sprintf("if%d", index)
}

// LinkNames is a copy of all interface names by index.
func (v View) LinkNames() map[uint32]string {
	names := make(map[uint32]string, len(v.c.links))
	for index, l := range v.c.links {
		names[index] = l.name
	}
	return names
}

// Origin is the mirrored row that an entry of the device comes from, nil if there
// is none.
func (v View) Origin(e resolve.Entry) *netstate.Row {
	if k, ok := v.c.resolver.Origin(e); ok {
		return v.Row(k)
	}
	return nil
}

// Representor is the interface that stands for a device port.
func (v View) Representor(port hwmodel.PortID) (index uint32, ok bool) { return v.c.linkOfPort(port) }

// Port is the device port of a name.
func (v View) Port(name string) (hwmodel.PortInfo, bool) {
	for _, p := range v.c.device.caps.Ports {
		if p.Name == name && name != "" {
			return p, true
		}
	}
	return hwmodel.PortInfo{}, false
}

// Ports are the port counters of the latest reading.
func (v View) Ports() []hwmodel.PortCounters { return v.c.counts.ports }

// Capabilities of the device; known is false before it was reached once.
func (v View) Capabilities() (caps hwmodel.Capabilities, known bool) {
	return v.c.device.caps, v.c.device.adopted
}

// Mirror counts what the mirror did: dumps, predictions right and wrong.
func (v View) Mirror() replica.Stats { return v.c.replica.Stats() }

// Settings are the mirrored settings, nil before the first.
func (v View) Settings() *netstate.Settings { return v.c.replica.LastSettings() }

// Status is how the agent is doing.
type Status struct {
	// Session is nil without one.
	Session     *transport.Hello
	Peer        string
	Since       time.Time // of the session, or since when there is none
	Epoch       uint64
	Seq         uint64 // the last message taken in
	Programmed  uint64
	LastChange  time.Duration // ago
	Overruns    uint64
	InSync      bool     // caught up, nothing in doubt, everything programmed
	Pending     []string // why not
	Doubt       string   // why everything traps, "" if it need not
	Held        bool     // the first snapshot is not complete: the device is left as it is
	Rows        map[netstate.Kind]int
	Suspects    int
	NotResolved uint64 // rows that could not be understood
	DeviceUp    bool
	DeviceError string
	Batches     uint64
	TimeOfView  time.Time
}

// Status returns how the agent is doing now.
func (v View) Status() Status {
	c := v.c
	s := Status{
		Epoch: c.epoch, Seq: c.lastSeq, Programmed: c.programmed, LastChange: c.now.Sub(c.lastChange),
		Overruns: c.overruns, Doubt: c.doubt, Held: !c.released, Suspects: c.replica.Suspects(),
		NotResolved: c.unmirroredN, DeviceUp: c.device.up, Batches: c.device.applied, TimeOfView: c.now,
		Rows: map[netstate.Kind]int{}, Since: c.sessionLost,
	}
	n := c.replica.Counts()
	for _, k := range netstate.Kinds {
		s.Rows[k] = n[k]
	}
	if c.session != nil {
		s.Session, s.Peer, s.Since = c.session.hello, c.session.peer, c.session.since
	}
	if c.device.err != nil {
		s.DeviceError = c.device.err.Error()
	}
	if s.InSync = c.passed(&barrier{marked: true, seq: c.lastSeq}); !s.InSync {
		s.Pending = c.pending(&barrier{marked: true, seq: c.lastSeq})
	}
	return s
}

// DeviceAddress is where the device is, for people.
func (a *Agent) DeviceAddress() string { return a.cfg.DeviceAddress }

func decodeLinkName(row *netstate.Row) (linkName, error) {
	var d netstate.Link
	if err := d.Decode(row.Group[0]); err != nil {
		return linkName{}, err
	}
	return linkName{name: d.Name, port: d.Port()}, nil
}

// stale says whether a packet to a neighbour would make the kernel ask whether it
// is still there (03 item 22: STALE to DELAY). In other states it would change
// nothing.
func stale(row *netstate.Row) bool {
	var d netstate.Neighbor
	return d.Decode(row.Group[0]) == nil && d.State&unix.NUD_STALE != 0
}
