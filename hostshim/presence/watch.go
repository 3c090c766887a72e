package presence

import (
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	nfnlgrpNFTables = 7 // NFNLGRP_NFTABLES of linux/netfilter/nfnetlink.h
	xfrmnlgrpPolicy = 4 // XFRMNLGRP_POLICY of linux/xfrm.h
)

// Watch is a socket that hears of changes which rtnetlink does not tell. What it
// hears is only a reason to read again.
type Watch struct{ conn *netlink.Conn }

// Watches opens one socket for nftables and one for xfrm in a namespace
// (netns.NS.Fd), as far as the kernel has them.
func Watches(ns int) (list []*Watch, err error) {
	for _, w := range []struct {
		protocol int
		group    uint32
	}{{unix.NETLINK_NETFILTER, nfnlgrpNFTables}, {unix.NETLINK_XFRM, xfrmnlgrpPolicy}} {
		c, err := netlink.Dial(w.protocol, &netlink.Config{NetNS: ns})
		if errors.Is(err, unix.EPROTONOSUPPORT) {
			continue
		}
		if err == nil {
			list = append(list, &Watch{c})
			err = c.JoinGroup(w.group)
		}
		if err != nil {
			for _, w := range list {
				w.Close()
			}
			return nil, fmt.Errorf("watch netlink protocol %d: %w", w.protocol, err)
		}
	}
	return list, nil
}

// Close closes the socket and ends Run.
func (w *Watch) Close() error { return w.conn.Close() }

// Run calls changed each time something was heard, or lost, until the socket is
// closed.
func (w *Watch) Run(changed func()) {
	for {
		_, err := w.conn.Receive()
		var sys unix.Errno
		if err != nil && (!errors.As(err, &sys) || sys == unix.EBADF) {
			return
		}
		changed()
	}
}
