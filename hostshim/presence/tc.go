package presence

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"antiphon/hostshim/netdev"
	"antiphon/transport"
)

// harmless qdiscs only queue. All but fq_codel have no place for filters; classful
// ones are not on this list.
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
	names, ports := map[uint32]string{}, map[uint32]bool{}
	for _, l := range links {
		names[l.Index], ports[l.Index] = l.Name, l.Port
	}
	for _, m := range replies {
		q, err := parseQdisc(m.Data)
		if err != nil {
			return list, err
		}
		if q.kind == "fq_codel" && ports[q.ifindex] {
			n, err := r.filters(q)
			if err != nil {
				return list, fmt.Errorf("filters of qdisc %s on %s: %w", q.kind, names[q.ifindex], err)
			}
			if n > 0 { // they may drop or redirect (net/sched/sch_fq_codel.c fq_codel_classify)
				list = append(list, &transport.Presence{What: "tc", Ifindex: q.ifindex, Egress: true,
					Detail: fmt.Sprintf("%d filters of qdisc %s on %s", n, q.kind, names[q.ifindex])})
			}
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

// filters counts what classifies for a qdisc. The handle 0, which qdiscs have that
// nobody made, asks for the device's root.
func (r *Reader) filters(q qdisc) (int, error) {
	body := make([]byte, tcmsgBytes)
	binary.NativeEndian.PutUint32(body[4:], q.ifindex)
	binary.NativeEndian.PutUint32(body[12:], q.handle) // tcm_parent
	replies, err := r.route.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.RTM_GETTFILTER, Flags: netlink.Request | netlink.Dump},
		Data:   body,
	})
	if errors.Is(err, unix.EOPNOTSUPP) {
		return 0, nil // a kernel without classifiers
	}
	return len(replies), err
}

type qdisc struct {
	ifindex, handle uint32
	kind            string
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
	q := qdisc{ifindex: d.ByteOrder.Uint32(b[4:]), handle: d.ByteOrder.Uint32(b[8:])}
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
