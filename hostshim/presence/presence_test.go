package presence_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/mdlayher/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"antiphon/hostshim/netdev"
	"antiphon/hostshim/netns"
	"antiphon/hostshim/presence"
	"antiphon/internal/netnstest"
	"antiphon/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// eye looks at a test's namespace, which has one port, swp1.
type eye struct {
	*netnstest.NS
	ns    *netns.NS
	route *netlink.Conn
	*presence.Reader
	swp1 uint32
}

func open(t *testing.T) *eye {
	t.Helper()
	e := &eye{NS: netnstest.New(t)}
	netnstest.Veth(t, netnstest.End{NS: e.NS, Name: "swp1", MAC: netnstest.MAC(1)}, netnstest.End{NS: e.NS, Name: "w1", MAC: netnstest.MAC(2), Bare: true})
	e.IP(t, "link property add dev swp1 altname antiphon-swp1")
	e.swp1 = uint32(e.Index(t, "swp1"))
	var err error
	if e.ns, err = netns.Open(e.Name()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.ns.Close() })
	if e.route, err = netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{NetNS: e.ns.Fd(), Strict: true}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.route.Close() })
	if e.Reader, err = presence.Open(e.ns.Fd(), e.route); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Reader.Close)
	return e
}

func (e *eye) look(t *testing.T) (list []*transport.Presence) {
	t.Helper()
	if err := e.ns.Do(func() error {
		links, err := netdev.List(e.route)
		list = e.Read(links)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return list
}

// TestAddRemove makes each thing that this kernel has, sees it, and sees it gone.
func TestAddRemove(t *testing.T) {
	type want struct {
		what            string
		port            bool
		family          uint32
		ingress, egress bool
		detail          string
	}
	for _, c := range []struct {
		name, add, remove, tool string
		want                    want
	}{
		{"nft inet forward", "nft add table inet a; nft add chain inet a c '{ type filter hook forward priority 0; }'", "nft delete table inet a", "nft",
			want{"nftables", false, 0, true, true, "table inet a chain c hook forward"}},
		{"nft ip", "nft add table ip a; nft add chain ip a c '{ type filter hook prerouting priority 0; }'", "nft delete table ip a", "nft",
			want{"nftables", false, unix.AF_INET, true, true, "hook prerouting"}},
		{"nft ip6", "nft add table ip6 a; nft add chain ip6 a c '{ type filter hook postrouting priority 0; }'", "nft flush ruleset", "nft",
			want{"nftables", false, unix.AF_INET6, true, true, "table ip6 a"}},
		{"nft netdev ingress", "nft add table netdev a; nft add chain netdev a c '{ type filter hook ingress device swp1 priority 0; }'", "nft flush ruleset", "nft",
			want{"nftables", true, 0, true, false, "device swp1"}},
		{"nft netdev egress", "nft add table netdev a; nft add chain netdev a c '{ type filter hook egress device swp1 priority 0; }'", "nft flush ruleset", "nft",
			want{"nftables", true, 0, false, true, "device swp1"}},
		{"nft inet ingress", "nft add table inet a; nft add chain inet a c '{ type filter hook ingress device swp1 priority 0; }'", "nft flush ruleset", "nft",
			want{"nftables", true, 0, true, false, "hook ingress"}},
		{"nft bridge", "nft add table bridge a; nft add chain bridge a c '{ type filter hook forward priority 0; }'", "nft flush ruleset", "nft",
			want{"nftables", false, 0, true, true, "table bridge a"}},
		{"clsact", "tc qdisc add dev swp1 clsact", "tc qdisc del dev swp1 clsact", "tc", want{"tc", true, 0, true, true, "clsact"}},
		{"ingress", "tc qdisc add dev swp1 ingress", "tc qdisc del dev swp1 ingress", "tc", want{"tc", true, 0, true, false, "ingress"}},
		{"tbf", "tc qdisc add dev swp1 root tbf rate 1mbit burst 10kb latency 10ms", "tc qdisc del dev swp1 root", "tc", want{"tc", true, 0, false, true, "tbf"}},
		{"filter of fq_codel", "tc qdisc add dev swp1 root handle 1: fq_codel; tc filter add dev swp1 parent 1: matchall action drop", "tc qdisc del dev swp1 root", "tc",
			want{"tc", true, 0, false, true, "1 filters of qdisc fq_codel"}},
		{"xfrm", "ip xfrm policy add src 10.0.0.0/8 dst 10.0.0.0/8 dir fwd action block", "ip xfrm policy flush", "ip", want{"xfrm", false, 0, true, true, "1 forward"}},
		{"xfrm default", "ip xfrm policy setdefault fwd block", "ip xfrm policy setdefault fwd accept", "ip", want{"xfrm", false, 0, true, true, "default"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := exec.LookPath(c.tool); err != nil {
				t.Skip("needs", c.tool)
			}
			e := open(t)
			if got := e.look(t); len(got) != 0 {
				t.Fatalf("before: %v", got)
			}
			if out, err := e.Try("sh", "-ec", c.add); err != nil {
				t.Skip("this kernel cannot:", out)
			}
			got := e.look(t)
			w := &transport.Presence{What: c.want.what, Family: c.want.family, Ingress: c.want.ingress, Egress: c.want.egress}
			if c.want.port {
				w.Ifindex = e.swp1
			}
			if len(got) != 1 || got[0].GetWhat() != w.What || got[0].GetIfindex() != w.Ifindex || got[0].GetFamily() != w.Family ||
				got[0].GetIngress() != w.Ingress || got[0].GetEgress() != w.Egress || !strings.Contains(got[0].GetDetail(), c.want.detail) {
				t.Errorf("got %v, want %v %q", got, w, c.want.detail)
			}
			e.Run(t, "sh", "-ec", c.remove)
			if got := e.look(t); len(got) != 0 {
				t.Errorf("after: %v", got)
			}
		})
	}
}

// TestIptables: a legacy table stays once it was there, so only its coming shows.
func TestIptables(t *testing.T) {
	for command, family := range map[string]uint32{"iptables-legacy": unix.AF_INET, "ip6tables-legacy": unix.AF_INET6} {
		if _, err := exec.LookPath(command); err != nil {
			t.Skip("needs", command)
		}
		e := open(t)
		if out, err := e.Try(command, "-P", "FORWARD", "DROP"); err != nil {
			t.Skip("this kernel cannot:", out)
		}
		got := e.look(t)
		if !slices.ContainsFunc(got, func(p *transport.Presence) bool { return p.GetWhat() == "iptables" && p.GetFamily() == family }) {
			t.Errorf("%s: %v", command, got)
		}
	}
}

// TestMroute holds a multicast routing socket with one interface.
func TestMroute(t *testing.T) {
	e := open(t)
	const (
		mrtInit   = 200
		mrtAddVif = 202
		useIndex  = 8 // VIFF_USE_IFINDEX
	)
	var s int
	err := e.ns.Do(func() (err error) {
		if s, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_IGMP); err != nil {
			return err
		}
		if err = unix.SetsockoptInt(s, unix.IPPROTO_IP, mrtInit, 1); err != nil {
			return err
		}
		// struct vifctl: u16 vif, u8 flags, u8 threshold, u32 rate, u32 ifindex, u32 remote.
		v := make([]byte, 16)
		v[2], v[3], v[8] = useIndex, 1, byte(e.swp1)
		return unix.SetsockoptString(s, unix.IPPROTO_IP, mrtAddVif, string(v))
	})
	if err != nil {
		t.Skip("this kernel cannot:", err)
	}
	has := func() bool {
		return slices.ContainsFunc(e.look(t), func(p *transport.Presence) bool { return p.GetWhat() == "mroute" && p.GetFamily() == unix.AF_INET })
	}
	if !has() {
		t.Error("not seen")
	}
	unix.Close(s)
	if has() {
		t.Error("still seen")
	}
}

// TestBridgeNF needs no rule: the setting and a bridge are enough.
func TestBridgeNF(t *testing.T) {
	e := open(t)
	if _, err := os.Stat("/proc/sys/net/bridge"); err != nil {
		t.Skip("needs br_netfilter")
	}
	e.Sysctl(t, "net/bridge/bridge-nf-call-iptables", "0")
	e.Sysctl(t, "net/bridge/bridge-nf-call-ip6tables", "0")
	e.IP(t, "link add br0 type bridge")
	e.IP(t, "link set swp1 master br0")
	if got := e.look(t); len(got) != 0 {
		t.Errorf("off: %v", got)
	}
	e.Sysctl(t, "net/bridge/bridge-nf-call-iptables", "1")
	if got := e.look(t); len(got) != 2 || got[0].GetWhat() != "bridge-nf" {
		t.Errorf("on: %v", got)
	}
}

// TestPrograms attaches XDP (by netlink and by link), TCX and netfilter programs.
func TestPrograms(t *testing.T) {
	e := open(t)
	program := func(typ ebpf.ProgramType, at ebpf.AttachType, ret int32) *ebpf.Program {
		p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: typ, AttachType: at, License: "GPL",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, ret), asm.Return()}})
		if err != nil {
			t.Skip("this kernel cannot load programs:", err)
		}
		t.Cleanup(func() { p.Close() })
		return p
	}
	check := func(attach func() (link.Link, error), what string, ifindex uint32, ingress, egress bool) {
		t.Helper()
		var l link.Link
		err := e.ns.Do(func() (err error) { l, err = attach(); return err })
		if err != nil {
			t.Logf("%s: this kernel cannot: %v", what, err)
			return
		}
		got := e.look(t)
		if len(got) != 1 || got[0].GetWhat() != what || got[0].GetIfindex() != ifindex || got[0].GetIngress() != ingress || got[0].GetEgress() != egress {
			t.Errorf("%s: %v", what, got)
		}
		l.Close()
		if got := e.look(t); len(got) != 0 {
			t.Errorf("after %s: %v", what, got)
		}
	}
	pass := program(ebpf.XDP, 0, 2)
	check(func() (link.Link, error) {
		return link.AttachXDP(link.XDPOptions{Program: pass, Interface: int(e.swp1), Flags: link.XDPGenericMode})
	}, "xdp", e.swp1, true, false)
	next := program(ebpf.SchedCLS, 0, -1)
	check(func() (link.Link, error) {
		return link.AttachTCX(link.TCXOptions{Program: next, Interface: int(e.swp1), Attach: ebpf.AttachTCXIngress})
	}, "tc", e.swp1, true, false)
	check(func() (link.Link, error) {
		return link.AttachTCX(link.TCXOptions{Program: next, Interface: int(e.swp1), Attach: ebpf.AttachTCXEgress})
	}, "tc", e.swp1, false, true)
	accept := program(ebpf.Netfilter, ebpf.AttachNetfilter, 1)
	check(func() (link.Link, error) {
		return link.AttachNetfilter(link.NetfilterOptions{Program: accept, ProtocolFamily: unix.NFPROTO_IPV4, Hook: link.NetfilterInetForward, Priority: 7})
	}, "nftables", 0, true, true)

	// By netlink, as `ip link set xdp` does it.
	pin := filepath.Join(bpffs(t), "pass")
	if err := pass.Pin(pin); err != nil {
		t.Skip("cannot pin:", err)
	}
	e.IP(t, "link set dev swp1 xdpgeneric pinned "+pin)
	if got := e.look(t); len(got) != 1 || got[0].GetWhat() != "xdp" {
		t.Errorf("XDP by netlink: %v", got)
	}
	e.IP(t, "link set dev swp1 xdpgeneric off")
	if got := e.look(t); len(got) != 0 {
		t.Errorf("after XDP: %v", got)
	}
}

// bpffs mounts a bpffs for the test.
func bpffs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		t.Skip("cannot mount a bpffs:", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}
