package replica

import "fmt"

// Rule names why rows became suspect.
type Rule uint8

const (
	// RuleLinkDown: a link went down, so IPv4 routes whose legs are all dead
	// were flushed in silence (N1, N8), IPv6 ones if
	// net.ipv6.route.skip_notify_on_dev_down is set (N29).
	RuleLinkDown Rule = iota + 1
	// RuleLinkGone: a link was deleted; IPv4 routes with any leg on it went (N5).
	RuleLinkGone
	// RuleMaster: a link moved to another master or VRF (N7).
	RuleMaster
	// RuleLastAddress: the last IPv4 address of a link was deleted, and with it
	// every IPv4 route with a leg on the link (N2).
	RuleLastAddress
	// RulePreferredSource: an IPv6 address was deleted; routes that preferred it
	// as source lose the attribute in silence. IPv4 ones are notified (N3).
	RulePreferredSource
	// RuleNexthop: the nexthop object that a route or group uses was deleted,
	// replaced or shrunk, or its link went down or lost carrier (N9-N12).
	RuleNexthop
	// RuleGroup: a notification whose effect on an ordered group of routes
	// cannot be told (N17-N26).
	RuleGroup
	// RuleRace: notified while a dump ran that does not mention the key.
	RuleRace
	// RuleHint: an Event said so.
	RuleHint
	// RuleReuse: an interface index names another link than before (N40).
	RuleReuse
	// RuleMTU: a link's MTU changed. IPv6 routes follow in silence with theirs;
	// below what IPv6 needs they go, in silence if the kernel is told so (N29).
	RuleMTU
	// RuleSetting: a setting changed that decides what the kernel says of routes.
	RuleSetting

	ruleCount = iota + 1
)

// String returns the rule's name for people.
func (r Rule) String() string {
	names := [ruleCount]string{"", "link-down", "link-gone", "master", "last-address",
		"preferred-source", "nexthop", "group", "race", "hint", "ifindex-reuse", "mtu", "setting"}
	if r > 0 && int(r) < len(names) {
		return names[r]
	}
	return fmt.Sprintf("rule(%d)", uint8(r))
}

// RuleStats counts what became of one rule's suspects. A prediction is judged by
// the dump that settles it, or by the notification that says the same.
type RuleStats struct {
	Suspects uint64 // rows made suspect
	Right    uint64 // a dump removed or changed the row
	Wrong    uint64 // a dump found the row as it was
	Told     uint64 // a notification settled it before a dump did
}

// Stats are counts since New.
type Stats struct {
	// Rules is indexed by Rule.
	Rules [ruleCount]RuleStats
	// Silent counts rows that a verified dump removed although no notification
	// said so and no rule suspected them: a missing rule, or a lost message.
	Silent uint64
	// SilentChanges counts rows that a verified dump changed or added likewise,
	// outside of the first snapshot and repairs of an overrun.
	SilentChanges    uint64
	DumpsRequested   uint64
	DumpsVerified    uint64
	DumpsInterrupted uint64 // interrupted, or the count did not match
	DumpsRefused     uint64 // the kernel answered with an error
	DumpsForeign     uint64 // blocks of dumps that nobody asked for, ignored
	Sweeps           uint64 // verified dumps that removed at least one row
	Swept            uint64 // rows removed so
	Overruns         uint64
	// Stranded counts dumps asked for only because suspects were left over: our bug.
	Stranded uint64
	// Ignored counts messages that are no rows: other families, neighbour noise.
	Ignored uint64
}
