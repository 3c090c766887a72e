package resolve

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/mdlayher/netlink"

	"antiphon/hwmodel"
)

// TestRuleOfALinkThatBecomesAPort: a representor gets its alternative name after it
// was made, and rules that name it must then match its port.
func TestRuleOfALinkThatBecomesAPort(t *testing.T) {
	w := newWorld(t, "swp1")
	fixed := make([]byte, 16)
	binary.NativeEndian.PutUint16(fixed[2:], arphrdEther)
	binary.NativeEndian.PutUint32(fixed[4:], 1)
	w.row(message(t, 16, fixed, func(ae *netlink.AttributeEncoder) { ae.String(3, "swp1") })) // IFLA_IFNAME alone
	w.rule(afInet, 100, tableMain, func(ae *netlink.AttributeEncoder) { ae.String(3, "swp1") })
	rules := func() (list []hwmodel.Rule) {
		for b := w.Next(); b != nil; b = w.Next() {
			for _, x := range b.Set.Rules {
				if x.Family == hwmodel.IPv4 {
					list = x.List
				}
			}
			w.Applied(hwmodel.Result{})
		}
		return list
	}
	for _, r := range rules() {
		if r.Priority == 100 {
			t.Fatalf("a rule matches a link that is no port: %+v", r)
		}
	}
	w.link(1, "swp1", iffUp|iffLowerUp, nil)
	if list := rules(); !slices.ContainsFunc(list, func(r hwmodel.Rule) bool { return r.Priority == 100 && r.In == 1 }) {
		t.Errorf("the rule is not in the device: %+v", list)
	}
}

// TestMainIsAloneOnceLocalIsNotFirst: the kernel looks up main by itself when the
// rule that looks up local is gone.
func TestMainIsAloneOnceLocalIsNotFirst(t *testing.T) {
	w := newWorld(t, "swp1")
	w.link(1, "swp1", iffUp|iffLowerUp, nil)
	local := w.rule(afInet, 0, tableLocal, nil)
	w.route(routeSpec{dst: "10.0.0.0/8", table: tableLocal, legs: []legSpec{{dev: 1}}})
	w.route(routeSpec{dst: "10.1.0.0/16", legs: []legSpec{{dev: 1}}})
	if r := w.routes(); r["10.0.0.0/8"].Action != hwmodel.RouteForward || r["10.1.0.0/16"].Reason != hwmodel.ReasonLocalMainOverlap {
		t.Errorf("main with local first: %+v", r)
	}
	w.gone(local)
	if r := w.routes(); len(r) != 1 || r["10.1.0.0/16"].Action != hwmodel.RouteForward {
		t.Errorf("main alone: %+v", r)
	}
}
