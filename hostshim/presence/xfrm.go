package presence

import (
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"github.com/mdlayher/netlink/nlenc"
	"golang.org/x/sys/unix"

	"antiphon/hostshim/netdev"
	"antiphon/transport"
)

// Of linux/xfrm.h.
const (
	xfrmGetSPDInfo = 0x25
	xfrmGetDefault = 0x28
	xfrmaSPDInfo   = 1 // XFRMA_SPD_INFO: six u32 counts, in, out, fwd first
	xfrmBlock      = 1 // XFRM_USERPOLICY_BLOCK
)

// xfrmPolicies finds policies, and default policies that block.
func (r *Reader) xfrmPolicies([]netdev.Link) (list []*transport.Presence, _ error) {
	if r.xfrm == nil {
		return nil, nil
	}
	replies, err := r.xfrm.Execute(netlink.Message{
		Header: netlink.Header{Type: xfrmGetSPDInfo, Flags: netlink.Request},
		Data:   make([]byte, 4),
	})
	if err != nil {
		return nil, fmt.Errorf("policy counts: %w", err)
	}
	for _, m := range replies {
		in, out, fwd, err := parseSPDInfo(m.Data)
		if err != nil {
			return nil, err
		}
		if in+out+fwd > 0 {
			list = append(list, global("xfrm", 0, fmt.Sprintf("xfrm policies: %d in, %d out, %d forward", in, out, fwd)))
		}
	}
	replies, err = r.xfrm.Execute(netlink.Message{
		Header: netlink.Header{Type: xfrmGetDefault, Flags: netlink.Request},
		Data:   make([]byte, 4),
	})
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		return list, nil // before Linux 5.15 there was no default to change
	}
	if err != nil {
		return list, fmt.Errorf("default policy: %w", err)
	}
	for _, m := range replies {
		// struct xfrm_userpolicy_default: u8 in, fwd, out.
		if len(m.Data) >= 3 && (m.Data[0] == xfrmBlock || m.Data[1] == xfrmBlock || m.Data[2] == xfrmBlock) {
			list = append(list, global("xfrm", 0, "xfrm default policy blocks"))
		}
	}
	return list, nil
}

// parseSPDInfo reads XFRM_MSG_NEWSPDINFO without its netlink header: u32 flags,
// attributes.
func parseSPDInfo(b []byte) (in, out, fwd uint32, err error) {
	if len(b) < 4 {
		return 0, 0, 0, fmt.Errorf("xfrm policy counts of %d bytes, want 4", len(b))
	}
	d, err := netlink.NewAttributeDecoder(b[4:])
	if err != nil {
		return 0, 0, 0, fmt.Errorf("xfrm policy counts: %w", err)
	}
	for d.Next() {
		if v := d.Bytes(); d.Type() == xfrmaSPDInfo && len(v) >= 12 {
			in, out, fwd = nlenc.Uint32(v[0:4]), nlenc.Uint32(v[4:8]), nlenc.Uint32(v[8:12])
		}
	}
	return in, out, fwd, d.Err()
}
