package hostshim

import (
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"antiphon/hostshim/netdev"
	"antiphon/hostshim/netns"
	"antiphon/hostshim/presence"
	"antiphon/hostshim/sysctl"
	"antiphon/transport"
)

// surveyor reads settings and presences of a namespace. Its method may be called
// from several goroutines.
type surveyor struct {
	ns       *netns.NS
	route    *netlink.Conn
	sysctl   *sysctl.Reader
	presence *presence.Reader
}

func newSurveyor(ns *netns.NS) (s *surveyor, err error) {
	s = &surveyor{ns: ns}
	if err := ns.Do(func() (err error) { s.sysctl, err = sysctl.NewReader(); return err }); err != nil {
		return nil, err
	}
	if s.route, err = netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{NetNS: ns.Fd(), Strict: true}); err != nil {
		return nil, fmt.Errorf("open rtnetlink: %w", err)
	}
	if s.presence, err = presence.Open(ns.Fd(), s.route); err != nil {
		s.route.Close()
		return nil, err
	}
	return s, nil
}

func (s *surveyor) close() {
	s.presence.Close()
	s.route.Close()
}

// read returns everything as it is now. It does not fail: what cannot be read is
// a presence that makes all packets trap.
func (s *surveyor) read() *transport.Settings {
	var all *transport.Settings
	err := s.ns.Do(func() error {
		links, err := netdev.List(s.route)
		if err != nil {
			return err
		}
		values, doubts, err := s.sysctl.Read(links)
		if err != nil {
			return err
		}
		all = &transport.Settings{Settings: values, Presences: append(doubts, s.presence.Read(links)...)}
		return nil
	})
	if err == nil && proto.Size(all) > transport.MaxMessage-64 {
		err = fmt.Errorf("they take %d bytes, a message has at most %d", proto.Size(all), transport.MaxMessage)
	}
	if err != nil {
		return &transport.Settings{Presences: []*transport.Presence{{What: "unknown", Ingress: true, Egress: true,
			Detail: fmt.Sprintf("settings cannot be read: %v", err)}}}
	}
	return all
}
