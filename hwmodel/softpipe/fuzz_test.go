package softpipe

import (
	"bytes"
	"context"
	"slices"
	"testing"

	"antiphon/hwmodel"
)

// rich is a table set that has something to say at every stage.
func rich() *hwmodel.Entries {
	e := rig()
	e.Settings.HashPolicy4, e.Settings.HashPolicy6 = 1, 1
	e.Interfaces[0].RPFilter = hwmodel.RPStrict
	e.Interfaces[1].SourceCheck = true
	e.Interfaces[2].MTU = 100
	e.Own = []hwmodel.OwnAddress{{Addr: ip("10.1.0.254")}}
	e.NextHops = append(e.NextHops, hwmodel.NextHop{ID: 4, Interface: 20, Gateway: ip("10.2.0.1")}, hwmodel.NextHop{ID: 5, Interface: 30, Gateway: ip("2001:db8:3::1")})
	e.Groups = append(e.Groups, hwmodel.Group{ID: 9, Legs: []hwmodel.Leg{{NextHop: 4, Weight: 3}, {NextHop: 9, Weight: 1, Dead: true}, {NextHop: 5, Weight: 2}}})
	for _, s := range []string{"0.0.0.0/0", "10.0.0.0/8", "::/0", "2001::/16"} {
		addRoute(s, hwmodel.Route{Action: hwmodel.RouteForward, Group: 9, Counter: hwmodel.CounterID(1000 + len(e.Routes))})(e)
	}
	addRoute("10.9.0.0/16", hwmodel.Route{Action: hwmodel.RouteDrop, Reason: hwmodel.ReasonBlackhole, Counter: 2000})(e)
	addRoute("10.9.1.0/24", hwmodel.Route{RouteKey: hwmodel.RouteKey{Table: sideTable}, Action: hwmodel.RouteThrow})(e)
	for i := range e.Rules {
		e.Rules[i].List = append([]hwmodel.Rule{{Action: hwmodel.RuleNext}, lookupIn(sideTable)}, e.Rules[i].List...)
	}
	return e
}

// FuzzRun: whatever comes in, nothing panics or writes beyond a frame, what is not
// forwarded is not touched, what is forwarded differs only where it must, and
// Trace agrees.
func FuzzRun(f *testing.F) {
	for _, s := range steps() {
		f.Add(uint16(max(1, s.in)), s.frame)
	}
	p := newTest()
	if r := apply(f, p, hwmodel.Batch{Set: *rich()}); len(r.Refused) > 0 {
		f.Fatal(r.Refused)
	}
	f.Fuzz(func(t *testing.T, in uint16, frame []byte) {
		port := hwmodel.PortID(in)
		guard := []byte("guard")
		buf := append(slices.Clone(frame), guard...)
		verdict, reason, out, got := one(p, port, buf[:len(frame)])
		if !bytes.Equal(buf[len(frame):], guard) {
			t.Fatal("written behind the frame")
		}
		tr, err := p.Trace(context.Background(), port, frame)
		if err != nil || tr.Verdict != verdict || tr.Reason != reason || tr.Out != out {
			t.Fatalf("trace: %+v %v, run: %v %v %d", tr, err, verdict, reason, out)
		}
		if verdict != hwmodel.Forward {
			if reason == hwmodel.ReasonNone || out != 0 || !bytes.Equal(got, frame) || len(got) != len(frame) {
				t.Fatalf("%v %v port %d: %x became %x", verdict, reason, out, frame, got)
			}
			return
		}
		if want := forwarded(frame, byte(out)); !bytes.Equal(got, want) {
			t.Fatalf("forwarded %x, want %x", got, want)
		}
	})
}
