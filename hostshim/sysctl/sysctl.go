package sysctl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"antiphon/hostshim/netdev"
	"antiphon/transport"
)

// root is where the kernel shows sysctls.
const root = "/proc/sys/"

// conf is one per-interface setting: its file name and its place in the array
// that link dumps carry.
type conf struct {
	name  string
	index int
}

// conf4 are the IPv4 interface settings that travel: index = IPV4_DEVCONF_* - 1
// (linux/ip.h).
var conf4 = [...]conf{
	{"forwarding", 0},
	{"mc_forwarding", 1},
	{"proxy_arp", 2},
	{"send_redirects", 5},
	{"shared_media", 6},
	{"rp_filter", 7},
	{"accept_source_route", 8},
	{"disable_xfrm", 14},
	{"disable_policy", 15},
	{"accept_local", 22},
	{"src_valid_mark", 23},
	{"route_localnet", 25},
	{"ignore_routes_with_linkdown", 28},
	{"drop_unicast_in_l2_multicast", 29},
	{"bc_forwarding", 31},
}

// conf6 are the IPv6 ones: index = DEVCONF_* (linux/ipv6.h).
var conf6 = [...]conf{
	{"forwarding", 0},
	{"mtu", 2},
	{"proxy_ndp", 22},
	{"accept_source_route", 24},
	{"mc_forwarding", 25},
	{"disable_ipv6", 26},
	{"ignore_routes_with_linkdown", 39},
	{"drop_unicast_in_l2_multicast", 40},
	{"seg6_enabled", 44},
	{"disable_policy", 48},
	{"rpl_seg_enabled", 51},
	{"force_forwarding", 59},
}

// global settings that travel, if the kernel has them.
var global = [...]string{
	"net/ipv4/ip_forward",
	"net/ipv4/ip_forward_use_pmtu",
	"net/ipv4/ip_forward_update_priority",
	"net/ipv4/fib_multipath_hash_policy",
	"net/ipv4/fib_multipath_hash_fields",
	"net/ipv4/fib_multipath_hash_seed",
	"net/ipv4/fib_multipath_use_neigh",
	"net/ipv4/nexthop_compat_mode",
	"net/ipv6/fib_multipath_hash_policy",
	"net/ipv6/fib_multipath_hash_fields",
	"net/ipv6/route/skip_notify_on_dev_down",
	"net/bridge/bridge-nf-call-iptables",
	"net/bridge/bridge-nf-call-ip6tables",
	"net/bridge/bridge-nf-call-arptables",
}

// Reader reads the settings of the namespace it was made in.
type Reader struct {
	// strange are names in the conf directories that this package does not know.
	strange4, strange6 []string
}

// NewReader looks which settings this kernel has.
func NewReader() (*Reader, error) {
	r := &Reader{}
	var err error
	if r.strange4, err = strangers("net/ipv4/conf/all", known4); err != nil {
		return nil, err
	}
	r.strange6, err = strangers("net/ipv6/conf/all", known6)
	return r, err
}

func strangers(dir, known string) ([]string, error) {
	entries, err := os.ReadDir(root + dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // the protocol is not there
	}
	if err != nil {
		return nil, fmt.Errorf("list sysctls: %w", err)
	}
	have := map[string]bool{}
	for _, name := range strings.Fields(known) {
		have[name] = true
	}
	var list []string
	for _, e := range entries {
		if !have[e.Name()] {
			list = append(list, e.Name())
		}
	}
	return list, nil
}

// Read returns all settings, of the namespace and of those links that are ports,
// and a presence for each one that is not understood.
func (r *Reader) Read(links []netdev.Link) ([]*transport.Setting, []*transport.Presence, error) {
	w := &writer{values: map[string]string{}}
	for _, name := range global {
		if err := w.file(name, strings.ReplaceAll(name, "/", ".")); err != nil {
			return nil, nil, err
		}
	}
	for _, dev := range [...]string{"all", "default"} {
		for _, c := range conf4 {
			if err := w.file("net/ipv4/conf/"+dev+"/"+c.name, "net.ipv4.conf."+dev+"."+c.name); err != nil {
				return nil, nil, err
			}
		}
		for _, c := range conf6 {
			if err := w.file("net/ipv6/conf/"+dev+"/"+c.name, "net.ipv6.conf."+dev+"."+c.name); err != nil {
				return nil, nil, err
			}
		}
	}
	for _, l := range links {
		if l.Port {
			w.link("net.ipv4.conf."+l.Name+".", conf4[:], l.Conf4)
			w.link("net.ipv6.conf."+l.Name+".", conf6[:], l.Conf6)
		}
	}
	presences := w.doubts(links)
	for _, f := range []struct {
		dir    string
		family uint32
		names  []string
	}{{"net/ipv4/conf/", unix.AF_INET, r.strange4}, {"net/ipv6/conf/", unix.AF_INET6, r.strange6}} {
		p, err := unknown(f.dir, f.family, f.names, links)
		if err != nil {
			return nil, nil, err
		}
		presences = append(presences, p...)
	}
	return w.list, presences, nil
}

// writer collects settings.
type writer struct {
	list   []*transport.Setting
	values map[string]string
}

func (w *writer) add(name, value string) {
	w.list = append(w.list, &transport.Setting{Name: name, Value: value})
	w.values[name] = value
}

// file adds the setting of a file, if there is one.
func (w *writer) file(path, name string) error {
	value, ok, err := read(path)
	if ok {
		w.add(name, value)
	}
	return err
}

func (w *writer) link(prefix string, names []conf, values []uint32) {
	for _, c := range names {
		if c.index < len(values) {
			w.add(prefix+c.name, strconv.Itoa(int(int32(values[c.index]))))
		}
	}
}

// read returns a sysctl without its line end. ok is false when it does not exist
// (an interface may go at any time).
func read(path string) (value string, ok bool, err error) {
	b, err := os.ReadFile(filepath.Join(root, path))
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENODEV), errors.Is(err, unix.EINVAL):
		return "", false, nil
	case err != nil:
		return "", false, fmt.Errorf("read sysctl: %w", err)
	}
	return strings.TrimSpace(string(b)), true, nil
}

// off reports whether a setting is absent or 0.
func (w *writer) off(name string) bool {
	v, ok := w.values[name]
	return !ok || v == "0"
}

// doubts names settings whose effect on forwarding is not mirrored yet.
func (w *writer) doubts(links []netdev.Link) []*transport.Presence {
	var list []*transport.Presence
	report := func(name string, family, ifindex uint32) {
		list = append(list, &transport.Presence{What: "sysctl", Family: family, Ifindex: ifindex,
			Ingress: true, Egress: true, Detail: name + "=" + w.values[name]})
	}
	for _, name := range [...]string{"fib_multipath_use_neigh", "ip_forward_use_pmtu", "conf.all.route_localnet", "conf.all.src_valid_mark"} {
		if name = "net.ipv4." + name; !w.off(name) {
			report(name, unix.AF_INET, 0)
		}
	}
	// Neighbour discovery for a proxied address is answered, not forwarded
	// (net/ipv6/ip6_output.c ip6_forward_proxy_check).
	if name := "net.ipv6.conf.all.proxy_ndp"; !w.off(name) {
		report(name, unix.AF_INET6, 0)
	}
	for _, l := range links {
		if !l.Port {
			continue
		}
		p4, p6 := "net.ipv4.conf."+l.Name+".", "net.ipv6.conf."+l.Name+"."
		for _, name := range [...]string{"route_localnet", "src_valid_mark"} {
			if !w.off(p4 + name) {
				report(p4+name, unix.AF_INET, l.Index)
			}
		}
		// Directed broadcasts need it on both (net/ipv4/route.c ip_mkroute_input).
		if name := p4 + "bc_forwarding"; !w.off(name) && !w.off("net.ipv4.conf.all.bc_forwarding") {
			report(name, unix.AF_INET, l.Index)
		}
		for _, name := range [...]string{"seg6_enabled", "rpl_seg_enabled"} {
			if !w.off(p6 + name) {
				report(p6+name, unix.AF_INET6, l.Index)
			}
		}
	}
	return list
}

// unknown reports interface settings of unknown name that are switched on. Every
// setting that the kernel has added so far is neutral at 0.
func unknown(dir string, family uint32, names []string, links []netdev.Link) ([]*transport.Presence, error) {
	var list []*transport.Presence
	look := func(dev string, ifindex uint32) error {
		for _, name := range names {
			value, ok, err := read(dir + dev + "/" + name)
			if err != nil {
				return err
			}
			if ok && value != "0" {
				list = append(list, &transport.Presence{What: "sysctl", Family: family, Ifindex: ifindex, Ingress: true, Egress: true,
					Detail: strings.ReplaceAll(dir, "/", ".") + dev + "." + name + "=" + value})
			}
		}
		return nil
	}
	if err := look("all", 0); err != nil {
		return nil, err
	}
	for _, l := range links {
		if l.Port {
			if err := look(l.Name, l.Index); err != nil {
				return nil, err
			}
		}
	}
	return list, nil
}
