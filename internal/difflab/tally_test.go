package difflab

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"antiphon/hwmodel"
)

// allowed reports whether docs/limits.md lets a frame trap for this reason that
// the kernel just forwards.
func allowed(r hwmodel.Reason, grouped bool) bool {
	switch r {
	case hwmodel.ReasonNeighborUnresolved: // the kernel goes on to the next leg of a nexthop group
		return grouped
	case hwmodel.ReasonVLANTag, // priority tags
		hwmodel.ReasonIPOptions, hwmodel.ReasonHopByHop, // not looked into
		hwmodel.ReasonMartianSource, hwmodel.ReasonMartianDest, // link-local IPv6 on the same link
		hwmodel.ReasonMalformed,      // IPv6 without a payload
		hwmodel.ReasonOwnSource,      // broadcasts, while no rule was ever made
		hwmodel.ReasonReversePath,    // answers that are not certain
		hwmodel.ReasonTooBig,         // a route's MTU above the link's
		hwmodel.ReasonRedirectDue,    // the kernel may or may not send a redirect
		hwmodel.ReasonNotForwardable, // broadcasts, when no rule looks up the table local
		hwmodel.ReasonNextHopDead,    // the kernel goes on to another route
		hwmodel.ReasonSuspect,        // legs of whose death the kernel does not tell
		hwmodel.ReasonLocalMainOverlap,
		hwmodel.ReasonRouteTOS, hwmodel.ReasonRouteAlias, hwmodel.ReasonSourceRouting,
		hwmodel.ReasonRuleSelector, hwmodel.ReasonRuleAction,
		hwmodel.ReasonResilientGroup, hwmodel.ReasonMultipathPolicy,
		hwmodel.ReasonUnmirroredSysctl:
		return true
	}
	return false
}

// tally adds up what a run did.
type tally struct {
	began                                       time.Time
	configurations, rounds, frames, left, plain int
	lines, refused                              int
	verdicts                                    [3]int
	traps                                       map[hwmodel.Reason]int // of all frames, by refpipe's reason
	plainTraps                                  map[hwmodel.Reason]int // of those that the kernel just forwarded
	items                                       map[string]*itemCount
}

// itemCount: frames that were about a line of the kernel behaviours page, and
// how many of them left a port.
type itemCount struct{ frames, left int }

func newTally() *tally {
	return &tally{began: time.Now(), traps: map[hwmodel.Reason]int{}, plainTraps: map[hwmodel.Reason]int{}, items: map[string]*itemCount{}}
}

func (a *tally) add(s *scenario, i int, lanes []*lane, sent []shot, exits [][]exit) {
	if i == 0 {
		a.configurations++
	}
	a.rounds++
	about := aboutLines(s.rounds[:i+1])
	for k, x := range sent {
		a.frames++
		gone := left(x, exits[k])
		if gone {
			a.left++
		}
		easy := len(exits[k]) == 1 && plain(x, exits[k][0])
		if easy {
			a.plain++
		}
		l := lanes[0]
		a.verdicts[l.verdict[k]]++
		if l.verdict[k] == hwmodel.Trap {
			a.traps[l.reason[k]]++
			if easy {
				a.plainTraps[l.reason[k]]++
			}
		}
		items := append(slices.Clone(x.items), about...)
		slices.Sort(items)
		for _, it := range slices.Compact(items) {
			if a.items[it] == nil {
				a.items[it] = &itemCount{}
			}
			a.items[it].frames++
			if gone {
				a.items[it].left++
			}
		}
	}
}

// lineItems says which lines of the kernel behaviours page a line is about.
var lineItems = []struct {
	match *regexp.Regexp
	items []string
}{
	{regexp.MustCompile(`rp_filter=[12]`), []string{"6"}},
	{regexp.MustCompile(`bc_forwarding=1`), []string{"8"}},
	{regexp.MustCompile(`ipv4/conf/swp\d/forwarding=0`), []string{"9"}},
	{regexp.MustCompile(`route .*(blackhole|unreachable|prohibit|throw)`), []string{"12", "16"}},
	{regexp.MustCompile(`rule add .*(lookup|blackhole|unreachable|prohibit)`), []string{"12"}},
	{regexp.MustCompile(`rule add .*( not | iif |goto|suppress)`), []string{"13"}},
	{regexp.MustCompile(`(route|rule) .* (tos|dsfield) `), []string{"14"}},
	{regexp.MustCompile(`rule add .*(ipproto|dport|sport)`), []string{"15"}},
	{regexp.MustCompile(`wire link set w\d down`), []string{"17"}},
	{regexp.MustCompile(`nexthop via .*nexthop|group \d+.*/`), []string{"18"}},
	{regexp.MustCompile(`table local|lookup local`), []string{"18a"}},
	{regexp.MustCompile(`resilient`), []string{"18b"}},
	{regexp.MustCompile(` mtu `), []string{"20", "27"}},
	{regexp.MustCompile(`send_redirects=0`), []string{"21"}},
	{regexp.MustCompile(`via inet6|onlink|nud |neigh del`), []string{"22"}},
	{regexp.MustCompile(`ipv6/conf/(swp\d|all)/forwarding=0`), []string{"28"}},
}

func aboutLines(rounds []round) (items []string) {
	for _, li := range lineItems {
		for _, r := range rounds {
			if slices.ContainsFunc(r.lines, li.match.MatchString) {
				items = append(items, li.items...)
				break
			}
		}
	}
	return items
}

// missing are the items that no frame was about.
func (a *tally) missing() (list []string) {
	for i := 1; i <= 30; i++ {
		if a.items[fmt.Sprint(i)] == nil {
			list = append(list, fmt.Sprint(i))
		}
	}
	for _, it := range []string{"18a", "18b"} {
		if a.items[it] == nil {
			list = append(list, it)
		}
	}
	return list
}

func (a *tally) String() string {
	var b strings.Builder
	took := time.Since(a.began)
	fmt.Fprintf(&b, "%d configurations, %d rounds, %d frames in %v (%.0f frames/s, %.1f configurations/s); %d of %d lines refused by the kernel\n",
		a.configurations, a.rounds, a.frames, took.Round(time.Millisecond), float64(a.frames)/took.Seconds(), float64(a.configurations)/took.Seconds(), a.refused, a.lines)
	percent := func(n int) float64 { return 100 * float64(n) / float64(max(a.frames, 1)) }
	fmt.Fprintf(&b, "left a port %d (%.1f%%), just forwarded %d; devices: forward %d (%.1f%%), trap %d, drop %d\n", a.left, percent(a.left), a.plain,
		a.verdicts[hwmodel.Forward], percent(a.verdicts[hwmodel.Forward]), a.verdicts[hwmodel.Trap], a.verdicts[hwmodel.Drop])
	reasons := func(title string, m map[hwmodel.Reason]int) {
		fmt.Fprintf(&b, "%s:", title)
		for _, r := range slices.SortedFunc(maps.Keys(m), func(x, y hwmodel.Reason) int { return m[y] - m[x] }) {
			fmt.Fprintf(&b, " %v %d", r, m[r])
		}
		b.WriteByte('\n')
	}
	reasons("traps", a.traps)
	reasons("traps of what the kernel just forwards", a.plainTraps)
	b.WriteString("items (frames, left a port):")
	for _, it := range slices.SortedFunc(maps.Keys(a.items), func(x, y string) int { return cmp.Or(len(x)-len(y), strings.Compare(x, y)) }) {
		fmt.Fprintf(&b, " %s: %d/%d", it, a.items[it].frames, a.items[it].left)
	}
	return b.String()
}
