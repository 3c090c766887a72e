package agent

import (
	"time"

	"antiphon/agent/resolve"
	"antiphon/hwmodel"
	"antiphon/netstate"
	"antiphon/transport"
)

// Dense counter slots of a port, the index in dense_stats is port*8 + slot.
const (
	denseRX = iota
	denseTX
	denseForwarded
	denseTrapped
	denseInjected
	denseCopied
	denseDropped
	densePerPort = 8
)

// counts is what the core keeps of counter readings.
type counts struct {
	now   uint64 // device time of the latest
	ports []hwmodel.PortCounters
	told  map[hwmodel.PortID]hwmodel.PortCounters
	used  map[netstate.Key]use // of neighbours
}

// use is when the host was last told that a neighbour is in use, and in which of
// its states: each time it turns stale is a new one.
type use struct {
	seq uint64
	at  time.Time
}

func newCounts() counts {
	return counts{told: map[hwmodel.PortID]hwmodel.PortCounters{}, used: map[netstate.Key]use{}}
}

// resend forgets what a shim was told: the next one knows nothing.
func (n *counts) resend() {
	clear(n.told)
	clear(n.used)
}

// counters takes in a reading and prepares what the shim is to know.
func (c *core) counters(rep hwmodel.CounterReport) {
	c.counts.now = rep.Now
	c.counts.ports = rep.Ports
	moved := c.resolver.Counters(rep)
	for _, n := range moved {
		if n.Gone {
			delete(c.counts.used, n.Key)
		}
	}
	if c.session == nil {
		return
	}
	for _, n := range moved {
		c.out.count(objectCounter(n))
		if n.Key.Kind == netstate.KindNeighbor && !n.Gone {
			c.use(n.Key)
		}
	}
	for _, p := range rep.Ports {
		c.countPort(p)
	}
}

func objectCounter(n resolve.ObjectCount) *transport.Counter {
	return &transport.Counter{
		Kind: uint32(n.Key.Kind), Digest: n.Key.Digest(), Generation: n.Generation,
		Packets: n.Packets, Bytes: n.Bytes, LastUsedNs: n.LastUsed, Gone: n.Gone,
	}
}

// use notes that traffic in the device goes to a neighbour. If it is stale, the
// kernel is to know, as if it had forwarded the packets itself; once for each time
// it turns stale, and again after useInterval in case the word was lost.
func (c *core) use(k netstate.Key) {
	row := c.replica.Row(k)
	if row == nil || !stale(row) {
		return
	}
	if told := c.counts.used[k]; told.seq == row.Seq && c.now.Sub(told.at) < useInterval {
		return
	}
	if len(c.out.used) >= maxItems {
		return // the session is slow; the next packet says it again
	}
	c.counts.used[k] = use{row.Seq, c.now}
	c.out.used = append(c.out.used, k.AppendCanonical(nil))
}

// countPort tells a port's counts where they moved, densely and as the count of
// the link that is the port's representor.
func (c *core) countPort(p hwmodel.PortCounters) {
	old, known := c.counts.told[p.Port]
	c.counts.told[p.Port] = p
	slots := [...]struct {
		slot     uint32
		now, was hwmodel.PacketsBytes
	}{
		{denseRX, p.RX, old.RX},
		{denseTX, p.TX, old.TX},
		{denseForwarded, p.Forwarded, old.Forwarded},
		{denseTrapped, p.Trapped, old.Trapped},
		{denseInjected, p.Injected, old.Injected},
		{denseCopied, p.Copied, old.Copied},
		{denseDropped, sum(p.Dropped[:]), sum(old.Dropped[:])},
	}
	for _, s := range slots {
		if !known || s.now != s.was {
			c.out.count(&transport.Counter{
				DenseId: uint32(p.Port)*densePerPort + s.slot, Generation: 1,
				Packets: s.now.Packets, Bytes: s.now.Bytes, LastUsedNs: c.counts.now,
			})
		}
	}
	if known && p.RX == old.RX {
		return
	}
	if index, ok := c.linkOfPort(p.Port); ok {
		k := netstate.Key{Kind: netstate.KindLink, ID: index}
		c.out.count(&transport.Counter{
			Kind: uint32(k.Kind), Digest: k.Digest(), Generation: 1,
			Packets: p.RX.Packets, Bytes: p.RX.Bytes, LastUsedNs: c.counts.now,
		})
	}
}

func (c *core) linkOfPort(port hwmodel.PortID) (uint32, bool) {
	for _, info := range c.device.caps.Ports {
		if info.ID != port {
			continue
		}
		for index, l := range c.links {
			if l.port == info.Name {
				return index, true
			}
		}
	}
	return 0, false
}

func sum(by []hwmodel.PacketsBytes) hwmodel.PacketsBytes {
	var s hwmodel.PacketsBytes
	for _, n := range by {
		s.Packets += n.Packets
		s.Bytes += n.Bytes
	}
	return s
}
