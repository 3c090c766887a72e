package difflab

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"antiphon/agent/resolve"
	"antiphon/internal/netnstest"
	"antiphon/netstate"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// load hands the namespace's whole state to a resolver, by plain dumps and reads
// of its own: the road through shim, agent and replica is tested elsewhere.
func load(t *testing.T, dut *netnstest.NS, r *resolve.Resolver) {
	t.Helper()
	err := dut.Do(func() error {
		s, err := sysctls()
		if err != nil {
			return err
		}
		r.Settings(s)
		c, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
		if err != nil {
			return err
		}
		defer c.Close()
		for _, d := range []struct{ typ, size int }{
			{unix.RTM_GETLINK, unix.SizeofIfInfomsg}, {unix.RTM_GETADDR, unix.SizeofIfAddrmsg}, {unix.RTM_GETNEIGH, unix.SizeofNdMsg},
			{unix.RTM_GETNEXTHOP, 8}, {unix.RTM_GETRULE, unix.SizeofRtMsg}, {unix.RTM_GETROUTE, unix.SizeofRtMsg},
		} {
			if err := dump(c, uint16(d.typ), d.size, r); err != nil {
				return fmt.Errorf("dump %d: %w", d.typ, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func dump(c *netlink.Conn, typ uint16, size int, r *resolve.Resolver) error {
	msgs, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(typ), Flags: netlink.Request | netlink.Dump},
		Data:   make([]byte, size),
	})
	if err != nil {
		return err
	}
	rows := map[netstate.Key]*netstate.Row{}
	var order []netstate.Key
	for _, m := range msgs {
		raw, err := m.MarshalBinary()
		if err != nil {
			return err
		}
		k, _, err := netstate.KeyOf(raw)
		if err == netstate.ErrNotMirrored {
			continue
		} else if err != nil {
			return err
		}
		if rows[k] == nil {
			rows[k] = &netstate.Row{Key: k}
			order = append(order, k)
		}
		rows[k].Group = append(rows[k].Group, raw)
	}
	for _, k := range order {
		if err := r.Change(netstate.Change{Key: k, Row: rows[k]}); err != nil {
			return err
		}
	}
	return nil
}

// sysctls reads what the resolver wants to know.
func sysctls() (*netstate.Settings, error) {
	s := &netstate.Settings{}
	names := []string{"net/ipv4/fib_multipath_hash_policy", "net/ipv4/fib_multipath_hash_seed", "net/ipv6/fib_multipath_hash_policy"}
	for _, dev := range []string{"all", swp(1), swp(2), swp(3)} {
		for _, n := range []string{"forwarding", "rp_filter", "accept_local", "send_redirects", "ignore_routes_with_linkdown"} {
			names = append(names, "net/ipv4/conf/"+dev+"/"+n)
		}
		for _, n := range []string{"forwarding", "disable_ipv6", "ignore_routes_with_linkdown", "mtu"} {
			names = append(names, "net/ipv6/conf/"+dev+"/"+n)
		}
	}
	for _, n := range names {
		b, err := os.ReadFile("/proc/sys/" + n)
		if err != nil {
			return nil, err
		}
		s.Settings = append(s.Settings, netstate.Setting{Name: strings.ReplaceAll(n, "/", "."), Value: strings.TrimSpace(string(b))})
	}
	return s, nil
}
