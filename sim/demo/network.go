package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// hosts is how many hosts, ports and wires the demo has.
const hosts = 4

// network is the demo's namespaces and what runs in them.
type network struct {
	antiphon string // the command line tool
	state    string // the simulation's state directory
	prefix   string // of namespace names
	made     []string
	typed    []string // what was typed in the router, for the reader
}

func (n *network) router() string    { return n.prefix + "r" }
func (n *network) host(i int) string { return n.prefix + "h" + strconv.Itoa(i) }
func swp(i int) string               { return "swp" + strconv.Itoa(i) }
func hostMAC(i int) [6]byte          { return [6]byte{2, 0xa1, 0, 0, 0, byte(i)} }
func routerMAC(i int) [6]byte        { return [6]byte{2, 0xa2, 0, 0, 0, byte(i)} }
func macText(m [6]byte) string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// run runs a command and returns what it printed.
func run(ctx context.Context, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(stderr.String()+string(out)))
	}
	return out, nil
}

// cli runs the product's command line tool on the demo's simulation.
func (n *network) cli(ctx context.Context, args ...string) ([]byte, error) {
	return run(ctx, n.antiphon, append(args, "--state", n.state)...)
}

// ip runs ip in a namespace.
func (n *network) ip(ctx context.Context, ns, line string) error {
	_, err := run(ctx, "ip", append([]string{"-n", ns}, strings.Fields(line)...)...)
	return err
}

// configure types a line in the router: "ip …" or "sysctl path=value".
func (n *network) configure(ctx context.Context, lines ...string) error {
	for _, line := range lines {
		n.typed = append(n.typed, line)
		if s, ok := strings.CutPrefix(line, "sysctl "); ok {
			if err := n.sysctl(ctx, n.router(), s); err != nil {
				return err
			}
			continue
		}
		if err := n.ip(ctx, n.router(), strings.TrimPrefix(line, "ip ")); err != nil {
			return err
		}
	}
	return nil
}

func (n *network) sysctl(ctx context.Context, ns, setting string) error {
	key, value, _ := strings.Cut(setting, "=")
	_, err := run(ctx, "ip", "netns", "exec", ns, "sh", "-c", `echo "$2" > "/proc/sys/$1"`, "sh", key, value)
	return err
}

// query runs a JSON question of iproute2 in the router.
func (n *network) query(ctx context.Context, into any, args ...string) error {
	out, err := run(ctx, "ip", append([]string{"-n", n.router(), "-j"}, args...)...)
	if err != nil {
		return err
	}
	if len(bytes.TrimSpace(out)) == 0 {
		out = []byte("[]")
	}
	return json.Unmarshal(out, into)
}

// up makes the namespaces and starts the simulation.
func (n *network) up(ctx context.Context) error {
	names := []string{n.router()}
	for i := 1; i <= hosts; i++ {
		names = append(names, n.host(i))
	}
	for _, ns := range names {
		if _, err := run(ctx, "ip", "netns", "add", ns); err != nil {
			return err
		}
		n.made = append(n.made, ns)
		// Addresses of the demo's own choosing only, and no delay before use.
		for _, s := range []string{"net/ipv6/conf/default/accept_dad=0", "net/ipv6/conf/default/addr_gen_mode=1"} {
			if err := n.sysctl(ctx, ns, s); err != nil {
				return err
			}
		}
	}
	args := []string{"sim", "up", "--detach", "--netns", n.router(), "--wire-netns", n.host(1)}
	for i := 1; i <= hosts; i++ {
		args = append(args, "--port", fmt.Sprintf("%s=w%d", swp(i), i))
	}
	if _, err := n.cli(ctx, args...); err != nil {
		return err
	}
	for i := 1; i <= hosts; i++ {
		w := "w" + strconv.Itoa(i)
		lines := []string{
			fmt.Sprintf("link set dev %s address %s", w, macText(hostMAC(i))),
			fmt.Sprintf("link set dev %s up", w),
			fmt.Sprintf("addr add 10.%d.0.2/24 dev %s", i, w),
			fmt.Sprintf("addr add 2001:db8:%d::2/64 dev %s nodad", i, w),
			fmt.Sprintf("route add default via 10.%d.0.1", i),
			fmt.Sprintf("-6 route add default via 2001:db8:%d::1", i),
		}
		if i > 1 {
			if err := n.ip(ctx, n.host(1), fmt.Sprintf("link set dev %s netns %s", w, n.host(i))); err != nil {
				return err
			}
		}
		for _, l := range lines {
			if err := n.ip(ctx, n.host(i), l); err != nil {
				return err
			}
		}
	}
	return nil
}

// down takes everything away again.
func (n *network) down() error {
	ctx := context.WithoutCancel(context.Background())
	var err error
	if _, statErr := os.Stat(n.state); statErr == nil {
		_, err = n.cli(ctx, "sim", "down")
	}
	for _, ns := range n.made {
		_, e := run(ctx, "ip", "netns", "del", ns)
		err = errors.Join(err, e)
	}
	return err
}

// routed is the configuration of the demo: what a person would type.
func routed() []string {
	lines := []string{
		"sysctl net/ipv4/ip_forward=1",
		"sysctl net/ipv6/conf/all/forwarding=1",
		"sysctl net/ipv4/fib_multipath_hash_policy=1",
		"sysctl net/ipv4/fib_multipath_hash_seed=4711",
	}
	for i := 1; i <= hosts; i++ {
		lines = append(lines,
			fmt.Sprintf("ip link set dev %s address %s", swp(i), macText(routerMAC(i))),
			fmt.Sprintf("ip link set dev %s up", swp(i)),
			fmt.Sprintf("ip addr add 10.%d.0.1/24 dev %s", i, swp(i)),
			fmt.Sprintf("ip addr add 2001:db8:%d::1/64 dev %s nodad", i, swp(i)),
			fmt.Sprintf("ip neigh replace 10.%d.0.2 lladdr %s dev %s nud permanent", i, macText(hostMAC(i)), swp(i)),
			fmt.Sprintf("ip neigh replace 2001:db8:%d::2 lladdr %s dev %s nud permanent", i, macText(hostMAC(i)), swp(i)))
	}
	return append(lines,
		"ip route add 198.51.100.0/24 via 10.2.0.2",
		"ip nexthop add id 2 via 10.2.0.2 dev swp2",
		"ip nexthop add id 3 via 10.3.0.2 dev swp3",
		"ip nexthop add id 23 group 2/3",
		"ip route add 203.0.113.0/24 nhid 23",
		"ip route add 192.0.2.0/25 nexthop via 10.2.0.2 weight 2 nexthop via 10.3.0.2",
		"ip -6 route add 2001:db8:100::/48 via 2001:db8:2::2",
		"ip -6 route add 2001:db8:200::/48 nexthop via 2001:db8:2::2 nexthop via 2001:db8:3::2",
		"ip route add 100.64.0.0/16 via inet6 2001:db8:3::2 dev swp3",
		"ip rule add from 10.4.0.0/24 lookup 100 pref 1000",
		"ip route add default via 10.3.0.2 table 100",
		"ip route add throw 198.51.100.0/24 table 100",
		"ip route add blackhole 192.0.2.128/26",
		"ip route add unreachable 192.0.2.192/26",
		"ip route add 198.18.0.0/24 via 10.2.0.2",
		"ip route add 198.18.0.0/24 tos 0x10 via 10.3.0.2",
	)
}
