package presence

import (
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"antiphon/hostshim/netdev"
	"antiphon/transport"
)

// harmless qdiscs only queue: no filter that drops or redirects hangs there
// unless a person puts a classful one, which is not on this list.
func harmless(kind string) bool {
	switch kind {
	case "noqueue", "noop", "mq", "pfifo_fast", "pfifo", "bfifo", "fq_codel", "fq":
		return true
	}
	return false
}

// Of linux/rtnetlink.h.
const (
	tcaKind    = 1  // TCA_KIND
	tcmsgBytes = 20 // sizeof(struct tcmsg): u8 family, 3 pad, s32 ifindex, u32 handle, parent, info
)

// tc finds qdiscs that can do more than queue.
func (r *Reader) tc(links []netdev.Link) (list []*transport.Presence, _ error) {
	replies, err := r.route.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.RTM_GETQDISC, Flags: netlink.Request | netlink.Dump},
		Data:   make([]byte, tcmsgBytes),
	})
	if err != nil {
		return nil, err
	}
	names := map[uint32]string{}
	for _, l := range links {
		names[l.Index] = l.Name
	}
	for _, m := range replies {
		q, err := parseQdisc(m.Data)
		if err != nil {
			return list, err
		}
		if harmless(q.kind) {
			continue
		}
		p := &transport.Presence{What: "tc", Ifindex: q.ifindex, Detail: fmt.Sprintf("qdisc %s on %s", q.kind, names[q.ifindex])}
		switch q.kind {
		case "ingress":
			p.Ingress = true
		case "clsact":
			p.Ingress, p.Egress = true, true
		default:
			p.Egress = true
		}
		list = append(list, p)
	}
	return list, nil
}

type qdisc struct {
	ifindex uint32
	kind    string
}

// parseQdisc reads an RTM_NEWQDISC without its netlink header.
func parseQdisc(b []byte) (qdisc, error) {
	if len(b) < tcmsgBytes {
		return qdisc{}, fmt.Errorf("qdisc message of %d bytes, want %d", len(b), tcmsgBytes)
	}
	d, err := netlink.NewAttributeDecoder(b[tcmsgBytes:])
	if err != nil {
		return qdisc{}, fmt.Errorf("qdisc message: %w", err)
	}
	q := qdisc{ifindex: d.ByteOrder.Uint32(b[4:])}
	for d.Next() {
		if d.Type() == tcaKind {
			q.kind = d.String()
		}
	}
	if err := d.Err(); err != nil {
		return qdisc{}, fmt.Errorf("qdisc message: %w", err)
	}
	return q, nil
}
