package truth

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os/exec"
	"slices"
	"sort"
	"strings"

	"antiphon/internal/netnstest"
)

// object is a JSON object of iproute2 or of the product.
type object = map[string]any

// The lists that are compared, by the words one would ask `ip` with.
const (
	links     = "link"
	addresses = "address"
	neighbors = "neighbor"
	proxies   = "neighbor proxy"
	nexthops  = "nexthop"
	rules4    = "-4 rule"
	rules6    = "-6 rule"
	routes4   = "-4 route"
	routes6   = "-6 route"
)

// everything is what is compared.
var everything = []string{links, addresses, neighbors, proxies, nexthops, rules4, rules6, routes4, routes6}

// snapshot is all lists.
type snapshot map[string][]object

// ipBatch runs lines of `ip -batch` in a namespace and returns what it printed.
// Lines that fail do not stop it; failed counts them.
func ipBatch(ns *netnstest.NS, lines []string, options ...string) (out string, failed int, why string, err error) {
	var stdout, stderr strings.Builder
	err = ns.Do(func() error {
		cmd := exec.Command("ip", append(options, "-force", "-batch", "-")...)
		cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err := cmd.Run()
		var exit *exec.ExitError
		if errors.As(err, &exit) && strings.Contains(stderr.String(), "Command failed") {
			return nil
		}
		return err
	})
	if err != nil {
		return "", 0, stderr.String(), fmt.Errorf("ip -batch: %w: %s", err, stderr.String())
	}
	return stdout.String(), strings.Count(stderr.String(), "Command failed"), stderr.String(), nil
}

// kernelSays asks `ip -j` for everything.
func kernelSays(ns *netnstest.NS) (snapshot, error) {
	s := snapshot{}
	for _, q := range []struct {
		options []string
		lines   []string
		kinds   []string
	}{
		{[]string{"-j"}, []string{"link show", "addr show", "neigh show", "neigh show proxy", "nexthop show"},
			[]string{links, addresses, neighbors, proxies, nexthops}},
		{[]string{"-j", "-4"}, []string{"rule show", "route show table all"}, []string{rules4, routes4}},
		{[]string{"-j", "-6"}, []string{"rule show", "route show table all"}, []string{rules6, routes6}},
	} {
		out, failed, why, err := ipBatch(ns, q.lines, q.options...)
		if err != nil {
			return nil, err
		}
		d := json.NewDecoder(strings.NewReader(out))
		for _, kind := range q.kinds {
			var list []object
			// An empty list may print nothing at the end.
			if err := d.Decode(&list); err != nil && !(errors.Is(err, io.EOF) && failed > 0) {
				return nil, fmt.Errorf("ip -j, %s: %w: %s", kind, err, why)
			}
			s[kind] = list
		}
	}
	s[addresses] = flatten(s[addresses])
	return s, nil
}

// flatten makes one object per address of `ip -j addr`.
func flatten(list []object) []object {
	var flat []object
	for _, l := range list {
		infos, _ := l["addr_info"].([]any)
		for _, i := range infos {
			a, ok := i.(object)
			if !ok || len(a) == 0 {
				continue
			}
			a["ifindex"], a["ifname"] = l["ifindex"], l["ifname"]
			flat = append(flat, a)
		}
	}
	return flat
}

// lines writes a snapshot as sorted lines that are equal if the states are. What
// a second more or less makes different is masked; an order that means something
// is kept as a number.
func (s snapshot) lines() []string {
	var all []string
	addressed := map[any]bool{}
	for _, a := range s[addresses] {
		if a["family"] == "inet" {
			addressed[a["ifname"]] = true
		}
	}
	// Settings of links that are no ports are not mirrored, so neither is whether
	// their routes count as dead without a carrier.
	ports := map[any]bool{}
	for _, l := range s[links] {
		names, _ := l["altnames"].([]any)
		ports[l["ifname"]] = len(names) > 0
	}
	for _, kind := range everything {
		position := map[string]int{}
		for _, o := range s[kind] {
			o = masked(kind, o)
			if kind == routes4 || kind == routes6 {
				forgiveLegs(o, func(leg object) bool {
					if kind == routes6 {
						return !ports[leg["dev"]] || hasFlag(leg, "linkdown")
					}
					return !ports[leg["dev"]] || !addressed[leg["dev"]] || leg["via"] != nil
				})
			}
			place := ""
			if kind == routes4 {
				k := fmt.Sprint(o["table"], " ", o["dst"], " ", o["tos"], " ", o["metric"])
				place = fmt.Sprintf(" #%d", position[k])
				position[k]++
			}
			b, err := json.Marshal(o)
			if err != nil {
				panic(err) // it was JSON a moment ago
			}
			all = append(all, kind+place+" "+string(b))
		}
	}
	sort.Strings(all)
	return all
}

// forgiveLegs masks the flags of legs that depend on history of which nobody is
// told: on links that are no ports (their settings are not mirrored); of IPv4 on
// links without any IPv4 address (dead if there was one); of IPv4 by IPv6 gateways
// (added without a carrier, they get LINKDOWN with its next change only,
// fib_check_nh_v6_gw); of IPv6 on links without a carrier (dead if the link was
// down before, until the carrier comes back, addrconf_notify).
func forgiveLegs(o object, history func(leg object) bool) {
	if o["dev"] != nil && history(o) {
		o["flags"] = without("dead", object{"flags": without("linkdown", o)})
	}
	legs, _ := o["nexthops"].([]any)
	if legs = slices.Clone(legs); legs == nil {
		return
	}
	for i, l := range legs {
		if leg := l.(object); history(leg) {
			leg = maps.Clone(leg)
			leg["flags"], o["flags"] = "any", "any"
			legs[i] = leg
		}
	}
	o["nexthops"] = legs
}

// masked is an object without what comes and goes by itself.
func masked(kind string, o object) object {
	c := maps.Clone(o)
	delete(c, "expires")
	for _, k := range []string{"valid_life_time", "preferred_life_time"} {
		if v, ok := c[k].(float64); ok && v > 0 && v < 1<<32-1 {
			c[k] = "some"
		}
	}
	if a, ok := c["resilient_args"].(object); ok {
		a = masked("", a)
		delete(a, "unbalanced_time")
		c["resilient_args"] = a
	}
	legs, _ := c["nexthops"].([]any)
	switch {
	case kind == routes6 && legs != nil:
		// The order of IPv6 siblings is not told by notifications (N23).
		legs = slices.Clone(legs)
		sort.Slice(legs, func(i, j int) bool { return text(legs[i]) < text(legs[j]) })
		c["nexthops"] = legs
	case kind == routes4 && legs != nil && severalDevices(legs):
		// Legs that lost their links one after the other: the flag of the whole
		// depends on the order of events.
		c["flags"] = without("linkdown", c)
	}
	return c
}

// without is an object's flags without one of them.
func without(flag string, o object) []any {
	flags, _ := o["flags"].([]any)
	return slices.DeleteFunc(slices.Clone(flags), func(f any) bool { return f == flag })
}

func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func severalDevices(legs []any) bool {
	for _, l := range legs {
		if l.(object)["dev"] != legs[0].(object)["dev"] {
			return true
		}
	}
	return false
}

// difference lists the lines that only one of two sorted lists has.
func difference(kernel, product []string) (diff []string) {
	for len(kernel) > 0 || len(product) > 0 {
		switch {
		case len(product) == 0 || len(kernel) > 0 && kernel[0] < product[0]:
			diff = append(diff, "only the kernel has   "+kernel[0])
			kernel = kernel[1:]
		case len(kernel) == 0 || product[0] < kernel[0]:
			diff = append(diff, "only the product has  "+product[0])
			product = product[1:]
		default:
			kernel, product = kernel[1:], product[1:]
		}
	}
	return diff
}
