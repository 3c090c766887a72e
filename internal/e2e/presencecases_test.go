package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// trapCases is everything that is not mirrored and that a test can bring about.
func trapCases() []trapCase {
	var cases []trapCase
	add := func(prefix string, defaults trapCase, list ...trapCase) {
		for _, c := range list {
			c.name = prefix + " " + c.name
			if c.object == "" {
				c.object = defaults.object
			}
			if c.object == "" {
				c.object = routed4
			}
			if c.remove == "" {
				c.remove = defaults.remove
			}
			c.reason = defaults.reason
			cases = append(cases, c)
		}
	}
	all := [streamCount]fate{kernel, kernel, kernel}
	none := [streamCount]fate{drops, drops, drops}
	v4, v6 := [streamCount]fate{kernel, forwards, kernel}, [streamCount]fate{forwards, kernel, forwards}
	ports12 := [streamCount]fate{kernel, kernel, forwards}

	chain := func(table, hook, rest string) string {
		return fmt.Sprintf("nft 'add table %s e2e; add chain %s e2e c { type filter hook %s priority 0; %s }'", table, table, hook, rest)
	}
	add("nft", trapCase{reason: "unmirrored-nftables", remove: "nft flush ruleset"},
		trapCase{name: "inet forward accept", add: chain("inet", "forward", ""), while: all, detail: "hook forward"},
		trapCase{name: "inet forward drop", add: chain("inet", "forward", "policy drop;"), while: none, detail: "table inet e2e"},
		trapCase{name: "inet rule drop", add: chain("inet", "forward", "") + "; nft add rule inet e2e c ip daddr 198.51.100.7 drop",
			while: [streamCount]fate{drops, kernel, kernel}},
		trapCase{name: "ip forward drop", add: chain("ip", "forward", "policy drop;"), while: [streamCount]fate{drops, forwards, drops}, detail: "table ip e2e"},
		trapCase{name: "ip6 prerouting drop", add: chain("ip6", "prerouting", "") + "; nft add rule ip6 e2e c ip6 daddr 2001:db8:100::/48 drop",
			while: [streamCount]fate{forwards, drops, forwards}, object: routed6, detail: "table ip6 e2e"},
		trapCase{name: "netdev ingress swp1", add: chain("netdev", "ingress device swp1", ""), while: ports12, object: "dev swp1", detail: "swp1"},
		trapCase{name: "netdev ingress swp1 drop", add: chain("netdev", "ingress device swp1", "") + "; nft add rule netdev e2e c ip daddr 198.51.100.7 drop",
			while: [streamCount]fate{drops, kernel, forwards}, object: "dev swp1", detail: "swp1"},
		trapCase{name: "netdev ingress swp3", add: chain("netdev", "ingress device swp3", ""), while: [streamCount]fate{forwards, forwards, kernel}, object: "dev swp3", detail: "swp3"},
		trapCase{name: "netdev egress swp2 drop", add: chain("netdev", "egress device swp2", "") + "; nft add rule netdev e2e c ip daddr 198.51.100.7 drop",
			while: [streamCount]fate{drops, kernel, forwards}, object: "dev swp2", detail: "swp2"},
		trapCase{name: "bridge", add: chain("bridge", "forward", "policy drop;"), while: all, detail: "table bridge"},
	)
	drop := func(p *presenceLab) (func() error, error) { return p.filter("swp1") }
	// The kernel stops sending on a device while its qdiscs change (qdisc_graft in
	// net/sched/sch_api.c): what it forwards there meanwhile is lost.
	add("tc", trapCase{reason: "unmirrored-tc"},
		trapCase{name: "clsact", add: "tc qdisc add dev swp1 clsact", remove: "tc qdisc del dev swp1 clsact", while: ports12, object: "dev swp1", detail: "clsact"},
		trapCase{name: "clsact at the egress", add: "tc qdisc add dev swp2 clsact", remove: "tc qdisc del dev swp2 clsact", while: ports12, gap: true, detail: "swp2"},
		trapCase{name: "ingress", add: "tc qdisc add dev swp1 ingress", remove: "tc qdisc del dev swp1 ingress", while: ports12, object: "dev swp1", detail: "ingress"},
		trapCase{name: "filter drop", attach: drop, while: [streamCount]fate{drops, kernel, forwards}, object: "dev swp1", detail: "clsact"},
		trapCase{name: "tbf", add: "tc qdisc add dev swp2 root tbf rate 1gbit burst 1mb latency 100ms", remove: "tc qdisc del dev swp2 root", while: ports12, gap: true, detail: "tbf"},
		trapCase{name: "htb", add: "tc qdisc add dev swp2 root htb", remove: "tc qdisc del dev swp2 root", while: ports12, gap: true, detail: "htb"},
		trapCase{name: "netem", add: "tc qdisc add dev swp2 root netem", remove: "tc qdisc del dev swp2 root", while: ports12, gap: true, detail: "netem"},
		trapCase{name: "TCX ingress", attach: tcx("swp1", ebpf.AttachTCXIngress, tcxNext), while: ports12, object: "dev swp1", detail: "TCX"},
		trapCase{name: "TCX ingress drop", attach: tcx("swp1", ebpf.AttachTCXIngress, tcxDrop), while: [streamCount]fate{drops, kernel, forwards}, object: "dev swp1", detail: "TCX"},
		trapCase{name: "TCX egress", attach: tcx("swp2", ebpf.AttachTCXEgress, tcxNext), while: ports12, detail: "swp2"},
		trapCase{name: "TCX egress drop", attach: tcx("swp2", ebpf.AttachTCXEgress, tcxDrop), while: [streamCount]fate{drops, kernel, forwards}, detail: "swp2"},
	)
	add("XDP", trapCase{reason: "unmirrored-xdp", object: "dev swp1"},
		trapCase{name: "pass", attach: xdp(xdpPass), while: ports12, detail: "swp1"},
		trapCase{name: "drop", attach: xdp(xdpDrop), while: [streamCount]fate{vanishes, kernel, forwards}, detail: "swp1"},
	)
	add("xfrm", trapCase{reason: "unmirrored-xfrm", remove: "ip xfrm policy flush"},
		trapCase{name: "policy of others", add: "ip xfrm policy add src 192.0.2.0/24 dst 192.0.2.0/24 dir fwd action block", while: all, detail: "1 forward"},
		trapCase{name: "policy drop", add: "ip xfrm policy add src 10.1.0.0/16 dst 198.51.100.0/24 dir fwd action block", while: [streamCount]fate{drops, kernel, kernel}, detail: "1 forward"},
		trapCase{name: "default block", add: "ip xfrm policy setdefault fwd block", remove: "ip xfrm policy setdefault fwd accept", while: none, detail: "default"},
	)
	add("ipvs", trapCase{reason: "unmirrored-ipvs", remove: "ipvsadm -C"},
		trapCase{name: "service", add: "ipvsadm -A -t 192.0.2.9:80", while: all})
	add("multicast routing", trapCase{reason: "unmirrored-mroute"},
		trapCase{name: "vif", attach: (*presenceLab).multicastRouting, while: v4, detail: "1 interface"})
	add("bridge-nf", trapCase{reason: "unmirrored-bridge-nf", object: "dev swp4"},
		trapCase{name: "on", add: "ip link add br0 type bridge mcast_snooping 0; ip link set swp4 master br0; sysctl -qw net.bridge.bridge-nf-call-iptables=1", remove: "ip link del br0",
			while: [streamCount]fate{forwards, forwards, kernel}, detail: "bridge-nf-call"})
	sysctl := func(name string) trapCase {
		return trapCase{name: name, add: "sysctl -qw " + name + "=1", remove: "sysctl -qw " + name + "=0", detail: name + "=1"}
	}
	for name, while := range map[string][streamCount]fate{
		"net.ipv4.fib_multipath_use_neigh":  v4,
		"net.ipv4.ip_forward_use_pmtu":      v4,
		"net.ipv4.conf.all.route_localnet":  v4,
		"net.ipv4.conf.swp1.route_localnet": {kernel, forwards, forwards},
		"net.ipv4.conf.all.src_valid_mark":  v4,
		"net.ipv4.conf.swp3.src_valid_mark": {forwards, forwards, kernel},
	} {
		c := sysctl(name)
		c.while = while
		if while[four] == forwards {
			c.object = "dev swp3"
		}
		add("sysctl", trapCase{reason: "unmirrored-sysctl"}, c)
	}
	seg6 := sysctl("net.ipv6.conf.swp1.seg6_enabled")
	seg6.while, seg6.object = v6, routed6
	broadcast := trapCase{name: "bc_forwarding", detail: "bc_forwarding=1", while: [streamCount]fate{kernel, forwards, forwards},
		add:    "sysctl -qw net.ipv4.conf.all.bc_forwarding=1 net.ipv4.conf.swp1.bc_forwarding=1",
		remove: "sysctl -qw net.ipv4.conf.all.bc_forwarding=0 net.ipv4.conf.swp1.bc_forwarding=0"}
	add("sysctl", trapCase{reason: "unmirrored-sysctl"}, seg6, broadcast)
	add("master", trapCase{reason: "unmirrored-master", object: "dev swp1", remove: "ip link del m0"},
		trapCase{name: "bridge", add: "ip link add m0 address " + macText(portMAC(1)) + " type bridge mcast_snooping 0; ip link set m0 up; ip link set swp1 master m0",
			while: ports12, gap: true},
		trapCase{name: "VRF", add: "ip link add m0 type vrf table 77; ip link set m0 up; ip link set swp1 master m0", while: ports12, gap: true},
	)
	add("upper", trapCase{reason: "unmirrored-upper", object: "dev swp1", remove: "ip link del u0"},
		trapCase{name: "macvlan", add: "ip link add link swp1 name u0 type macvlan; ip link set u0 up", while: ports12},
		trapCase{name: "VLAN", add: "ip link add link swp1 name u0 type vlan id 5; ip link set u0 up", while: ports12},
		trapCase{name: "MACsec", add: "ip link add link swp1 name u0 type macsec; ip link set u0 up", while: ports12},
	)
	back := "ip route replace " + routed4 + " via " + host4(2)
	cases = append(cases, trapCase{name: "route encap", object: routed4, reason: "route-encap", while: [streamCount]fate{kernel, forwards, forwards},
		add: back + " encap ip id 5 dst 192.0.2.1", remove: back})
	return cases
}

// Verdicts of programs, include/uapi/linux/bpf.h and pkt_cls.h.
const (
	xdpDrop, xdpPass = 1, 2
	tcxNext, tcxDrop = -1, 2
)

// ethertype of IPv4 as a program reads it from a little-endian field.
const ethertypeIPv4 = 0x0008

// classifier is a program that gives IPv4 packets a verdict and lets the others on.
func classifier(verdict int32) (*ebpf.Program, error) {
	const protocol = 16 // offset in struct __sk_buff
	return ebpf.NewProgram(&ebpf.ProgramSpec{Name: "e2e", Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
		asm.Mov.Imm(asm.R0, tcxNext),
		asm.LoadMem(asm.R2, asm.R1, protocol, asm.Word),
		asm.JNE.Imm(asm.R2, ethertypeIPv4, "out"),
		asm.Mov.Imm(asm.R0, verdict),
		asm.Return().WithSymbol("out"),
	}})
}

func tcx(dev string, at ebpf.AttachType, verdict int32) func(*presenceLab) (func() error, error) {
	return func(p *presenceLab) (func() error, error) {
		program, err := classifier(verdict)
		if err != nil {
			return nil, err
		}
		return p.attachLink(program, dev, func(ifindex int) (link.Link, error) {
			return link.AttachTCX(link.TCXOptions{Program: program, Interface: ifindex, Attach: at})
		})
	}
}

// attachLink attaches a program to a link of the router.
func (p *presenceLab) attachLink(program *ebpf.Program, dev string, attach func(ifindex int) (link.Link, error)) (func() error, error) {
	var l link.Link
	err := p.dut.Do(func() error {
		ifi, err := net.InterfaceByName(dev)
		if err == nil {
			l, err = attach(ifi.Index)
		}
		return err
	})
	if err != nil {
		return nil, errors.Join(err, program.Close())
	}
	return func() error { return errors.Join(l.Close(), program.Close()) }, nil
}

// xdp attaches a program to swp1 that gives IPv4 packets a verdict, and counts
// those that it drops: nobody else ever sees them.
func xdp(verdict int32) func(*presenceLab) (func() error, error) {
	return func(p *presenceLab) (func() error, error) {
		counter, err := ebpf.NewMap(&ebpf.MapSpec{Name: "e2e", Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
		if err != nil {
			return nil, err
		}
		const data, dataEnd, ethertype = 0, 4, 12 // offsets in struct xdp_md and in the frame
		program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "e2e", Type: ebpf.XDP, License: "GPL", Instructions: asm.Instructions{
			asm.Mov.Imm(asm.R6, xdpPass),
			asm.LoadMem(asm.R2, asm.R1, data, asm.Word),
			asm.LoadMem(asm.R3, asm.R1, dataEnd, asm.Word),
			asm.Mov.Reg(asm.R4, asm.R2),
			asm.Add.Imm(asm.R4, ethertype+2),
			asm.JGT.Reg(asm.R4, asm.R3, "out"),
			asm.LoadMem(asm.R4, asm.R2, ethertype, asm.Half),
			asm.JNE.Imm(asm.R4, ethertypeIPv4, "out"),
			asm.Mov.Imm(asm.R6, verdict),
			asm.StoreImm(asm.RFP, -4, 0, asm.Word),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, -4),
			asm.LoadMapPtr(asm.R1, counter.FD()),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, "out"),
			asm.Mov.Imm(asm.R1, 1),
			asm.StoreXAdd(asm.R0, asm.R1, asm.DWord),
			asm.Mov.Reg(asm.R0, asm.R6).WithSymbol("out"),
			asm.Return(),
		}})
		if err != nil {
			return nil, errors.Join(err, counter.Close())
		}
		p.t().Cleanup(func() { counter.Close() })
		if verdict == xdpDrop {
			p.swallowed = func() (int, error) {
				var n uint64
				err := counter.Lookup(uint32(0), &n)
				return int(n), err
			}
		}
		return p.attachLink(program, "swp1", func(ifindex int) (link.Link, error) {
			return link.AttachXDP(link.XDPOptions{Program: program, Interface: ifindex, Flags: link.XDPGenericMode})
		})
	}
}

// filter hangs a program at the ingress of a link as tc does, which drops IPv4.
func (p *presenceLab) filter(dev string) (func() error, error) {
	program, err := classifier(tcxDrop)
	if err != nil {
		return nil, err
	}
	defer program.Close()
	dir, err := os.MkdirTemp("", "antiphon-e2e-bpf")
	if err != nil {
		return nil, err
	}
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		return nil, errors.Join(err, os.Remove(dir))
	}
	p.t().Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH); os.Remove(dir) })
	pin := filepath.Join(dir, "drop")
	if err := program.Pin(pin); err != nil {
		return nil, err
	}
	detach := func() error {
		_, err := p.dut.Try("tc", "qdisc", "del", "dev", dev, "clsact")
		return err
	}
	if _, err := p.dut.Try("tc", "qdisc", "add", "dev", dev, "clsact"); err != nil {
		return nil, err
	}
	if _, err := p.dut.Try("tc", "filter", "add", "dev", dev, "ingress", "bpf", "direct-action", "object-pinned", pin); err != nil {
		return nil, errors.Join(err, detach())
	}
	return detach, nil
}

// multicastRouting holds a multicast routing socket with one interface.
func (p *presenceLab) multicastRouting() (func() error, error) {
	const (
		mrtInit   = 200 // linux/mroute.h
		mrtAddVif = 202
		useIndex  = 8 // VIFF_USE_IFINDEX
	)
	s := -1
	err := p.dut.Do(func() error {
		ifi, err := net.InterfaceByName("swp1")
		if err != nil {
			return err
		}
		if s, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_IGMP); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(s, unix.IPPROTO_IP, mrtInit, 1); err != nil {
			return err
		}
		// struct vifctl: u16 vif, u8 flags, u8 threshold, u32 rate, u32 ifindex, u32 remote.
		v := make([]byte, 16)
		v[2], v[3], v[8] = useIndex, 1, byte(ifi.Index)
		return unix.SetsockoptString(s, unix.IPPROTO_IP, mrtAddVif, string(v))
	})
	if err != nil {
		if s >= 0 {
			unix.Close(s)
		}
		return nil, err
	}
	return func() error { return unix.Close(s) }, nil
}
