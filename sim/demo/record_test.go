package demo

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"antiphon/hostshim/netns"
	"antiphon/internal/netnstest"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "record the router of the live demo anew")

// TestRecord writes router.nl and router.sysctl: the demo's router as a kernel
// has it, taken by plain dumps and reads.
func TestRecord(t *testing.T) {
	if !*update {
		t.Skip("records only with -update")
	}
	netnstest.Require(t)
	bin := t.TempDir()
	ctx := context.Background()
	if _, err := run(ctx, "go", "build", "-o", bin, "antiphon/cmd/..."); err != nil {
		t.Fatal(err)
	}
	n := &network{antiphon: filepath.Join(bin, "antiphon"), state: filepath.Join(t.TempDir(), "state"), prefix: fmt.Sprintf("antiphon-rec-%d-", os.Getpid())}
	defer func() {
		if err := n.down(); err != nil {
			t.Error(err)
		}
	}()
	if err := n.up(ctx); err != nil {
		t.Fatal(err)
	}
	if err := n.configure(ctx, routed()...); err != nil {
		t.Fatal(err)
	}
	space, err := netns.Open(n.router())
	if err != nil {
		t.Fatal(err)
	}
	defer space.Close()
	out := []byte(stateMagic)
	var lines []string
	err = space.Do(func() error {
		c, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
		if err != nil {
			return err
		}
		defer c.Close()
		for _, d := range []struct{ typ, size int }{
			{unix.RTM_GETLINK, unix.SizeofIfInfomsg}, {unix.RTM_GETADDR, unix.SizeofIfAddrmsg}, {unix.RTM_GETNEIGH, unix.SizeofNdMsg},
			{unix.RTM_GETNEXTHOP, 8}, {unix.RTM_GETRULE, unix.SizeofRtMsg}, {unix.RTM_GETROUTE, unix.SizeofRtMsg},
		} {
			msgs, err := c.Execute(netlink.Message{
				Header: netlink.Header{Type: netlink.HeaderType(d.typ), Flags: netlink.Request | netlink.Dump}, Data: make([]byte, d.size)})
			if err != nil {
				return err
			}
			for _, m := range msgs {
				raw, err := m.MarshalBinary()
				if err != nil {
					return err
				}
				out = append(binary.BigEndian.AppendUint32(out, uint32(len(raw))), raw...)
			}
		}
		names := []string{"net/ipv4/fib_multipath_hash_policy", "net/ipv4/fib_multipath_hash_seed", "net/ipv6/fib_multipath_hash_policy"}
		for _, dev := range []string{"all", swp(1), swp(2), swp(3), swp(4)} {
			for _, s := range []string{"forwarding", "rp_filter", "accept_local", "send_redirects", "ignore_routes_with_linkdown"} {
				names = append(names, "net/ipv4/conf/"+dev+"/"+s)
			}
			for _, s := range []string{"forwarding", "disable_ipv6", "ignore_routes_with_linkdown"} {
				names = append(names, "net/ipv6/conf/"+dev+"/"+s)
			}
		}
		for _, name := range names {
			b, err := os.ReadFile("/proc/sys/" + name)
			if err != nil {
				return err
			}
			lines = append(lines, strings.ReplaceAll(name, "/", ".")+"="+strings.TrimSpace(string(b)))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(lines)
	for name, b := range map[string][]byte{"router.nl": out, "router.sysctl": []byte(strings.Join(lines, "\n") + "\n")} {
		if err := os.WriteFile(name, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestInMemory runs tier 0 as a machine without root would.
func TestInMemory(t *testing.T) {
	var out strings.Builder
	if err := inMemory(context.Background(), Options{Out: &out}); err != nil {
		t.Errorf("%v\n%s", err, out.String())
	}
	if !strings.Contains(out.String(), "5100 forwarded, 105 trapped, 100 dropped") {
		t.Errorf("account:\n%s", out.String())
	}
}

// A disagreement is an error, not a line in a log.
func TestDisagreementFails(t *testing.T) {
	a := &account{out: &strings.Builder{}}
	a.check("something")
	if err := a.verdict(); err != ErrDisagree {
		t.Errorf("verdict %v", err)
	}
}

func TestReadStateRefuses(t *testing.T) {
	for _, b := range []string{"", "ANTNL2\n", stateMagic + "abc", stateMagic + "\xff\xff\xff\xff", stateMagic + "\x00\x00\x00\x05abcd"} {
		if _, err := readState([]byte(b)); err == nil {
			t.Errorf("%q was read", b)
		}
	}
}

func FuzzReadState(f *testing.F) {
	f.Add([]byte(stateMagic))
	f.Add(recordedState[:200])
	f.Fuzz(func(t *testing.T, b []byte) {
		msgs, err := readState(b)
		if err != nil {
			return
		}
		total := len(stateMagic)
		for _, m := range msgs {
			total += 4 + len(m)
		}
		if total != len(b) {
			t.Errorf("%d of %d bytes came back", total, len(b))
		}
	})
}
