package ipjson

import (
	"antiphon/netstate"

	"golang.org/x/sys/unix"
)

// ntfExtManaged is NTF_EXT_MANAGED (linux/neighbour.h).
const ntfExtManaged = 1

// Neighbor is an element of `ip -j neigh show`, or of `neigh show proxy`.
func Neighbor(n *netstate.Neighbor, c Context) Object {
	o := Object{{"dst", address(n.Dst)}}
	if n.Index != 0 {
		o.add("dev", c.name(n.Index))
	}
	if n.HasLLAddr {
		var typ uint16
		if l := c.link(n.Index); l != nil {
			typ = l.Type
		}
		o.add("lladdr", hardware(n.LLAddr, typ))
	}
	for _, f := range [...]struct {
		set  bool
		name string
	}{
		{n.Flags&unix.NTF_ROUTER != 0, "router"},
		{n.Proxy, "proxy"},
		{n.FlagsExt&ntfExtManaged != 0, "managed"},
		{n.Flags&unix.NTF_EXT_LEARNED != 0, "extern_learn"},
		{n.Flags&unix.NTF_OFFLOADED != 0, "offload"},
	} {
		if f.set {
			o.add(f.name, nil)
		}
	}
	if n.State != 0 {
		o.add("state", netstate.NeighborStates(n.State))
	}
	if n.Protocol != 0 {
		o.add("protocol", netstate.ProtocolName(n.Protocol))
	}
	return o
}

// Shown reports whether `ip neigh show` without further words lists an entry:
// neither NOARP nor stateless ones, unless something else learned them; proxies
// have a list of their own.
func Shown(n *netstate.Neighbor) bool {
	return !n.Proxy && (n.State&^unix.NUD_NOARP != 0 || n.Flags&unix.NTF_EXT_LEARNED != 0)
}
