package ipjson

import (
	"encoding/json"
	"net/netip"
	"testing"

	"antiphon/netstate"
)

// The comparison with iproute2 itself is TestJSON in netstate.

func TestObjectKeepsOrder(t *testing.T) {
	n := &netstate.Neighbor{Index: 3, Dst: netip.MustParseAddr("10.0.0.1"), State: 0x80}
	o := Neighbor(n, Context{})
	o.Set("fate", "trapped")
	o.Set("dst", "replaced")
	o.Set("packets", uint64(1)<<63)
	b, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"dst":"replaced","dev":"if3","state":["PERMANENT"],"fate":"trapped","packets":9223372036854775808}`
	if string(b) != want {
		t.Errorf("got  %s\nwant %s", b, want)
	}
	if v, ok := o.Get("fate"); v != "trapped" || !ok {
		t.Error(v, ok)
	}
	if _, ok := o.Get("absent"); ok {
		t.Error("an absent member was found")
	}
}

// TestAddress: addresses are written as the C library does.
func TestAddress(t *testing.T) {
	for in, want := range map[string]string{
		"::10.1.2.3":       "::10.1.2.3",
		"::1":              "::1",
		"::ffff:192.0.2.1": "::ffff:192.0.2.1",
		"2001:db8::1:0:0":  "2001:db8::1:0:0",
		"10.0.0.1":         "10.0.0.1",
	} {
		if got := address(netip.MustParseAddr(in)); got != want {
			t.Errorf("%s: %s", in, got)
		}
	}
}

// TestZeroRows: rows that no kernel sends are written without a panic.
func TestZeroRows(t *testing.T) {
	c := Context{}
	for _, o := range []Object{
		Link(&netstate.Link{XDPMode: 1, OperState: 99, LinkMode: 9, HasParent: true}, c),
		LinkWithAddresses(&netstate.Link{}, []*netstate.Addr{{}}, c),
		Neighbor(&netstate.Neighbor{}, c), Route(&netstate.Route{Multipath: true}, c),
		Rule(&netstate.Rule{}), Nexthop(&netstate.Nexthop{IsGroup: true, GroupType: 9}, c),
	} {
		if _, err := json.Marshal(o); err != nil {
			t.Error(err)
		}
	}
}
