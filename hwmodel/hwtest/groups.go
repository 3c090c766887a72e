package hwtest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"testing"

	"antiphon/hwmodel"
)

// setGroup gives the packet's group new legs by the ports' hosts.
func (s *scene) setGroup(legs ...hwmodel.Leg) {
	for i := range legs {
		legs[i].NextHop = viaHost(s.family(), int(legs[i].NextHop))
	}
	s.group(s.target().Group).Legs = legs
}

// flow returns the n'th flow through the scene.
func (s *scene) flow(r *rand.Rand) Packet {
	p := s.pkt
	p.SrcPort, p.DstPort = uint16(r.Uint32()), uint16(r.Uint32())
	to := p.To.AsSlice()
	to[len(to)-1], to[len(to)-2] = byte(r.Uint32()), byte(r.Uint32())
	p.To, _ = netip.AddrFromSlice(to)
	return p
}

// testGroups: weights, dead legs, constancy, and known answers of the hash.
func testGroups(t *testing.T, mk maker) {
	const flows = 4000
	type settings struct {
		name   string
		policy uint8
		known  bool
	}
	kinds := []settings{{"policy-0", 0, true}, {"policy-1", 1, true}, {"unknown-seed", 0, false}, {"unknown-seed-policy-1", 1, false}}
	for _, f := range []hwmodel.Family{hwmodel.IPv4, hwmodel.IPv6} {
		for _, k := range kinds {
			t.Run(fmt.Sprintf("IPv%d/%s", f, k.name), func(t *testing.T) {
				s, sc := mk(t, Config{Ports: ports()}), newScene(f)
				sc.Settings = &hwmodel.Settings{HashPolicy4: k.policy, HashPolicy6: k.policy, HashSeed: 0x12345678, SeedKnown: k.known}
				sc.setGroup(
					hwmodel.Leg{NextHop: 2, Weight: 1}, hwmodel.Leg{NextHop: 3, Weight: 3}, hwmodel.Leg{NextHop: 4, Weight: 5, Dead: true},
					hwmodel.Leg{NextHop: 5, Weight: 4})
				s.load(t, sc.Entries)
				shares := map[hwmodel.PortID]float64{2: 1. / 8, 3: 3. / 8, 5: 4. / 8}
				count := map[hwmodel.PortID]int{}
				r := rand.New(rand.NewPCG(5, 5))
				for range flows {
					pkt := sc.flow(r)
					frame := pkt.Frame()
					first := s.send(t, sc.in, frame)
					if first.Verdict != hwmodel.Forward || shares[first.Out] == 0 {
						t.Fatalf("got %v, want a live leg", first)
					}
					count[first.Out]++
					if again := s.send(t, sc.in, frame); !again.equal(first) {
						t.Fatalf("a flow changed its leg: %v, then %v", first, again)
					}
				}
				for port, share := range shares {
					// Six standard deviations: a fair choice never fails.
					want, margin := share*flows, 6*math.Sqrt(share*(1-share)*flows)
					if math.Abs(float64(count[port])-want) > margin {
						t.Errorf("port %d took %d of %d flows, want %.0f ± %.0f", port, count[port], flows, want, margin)
					}
				}
			})
		}
		t.Run(fmt.Sprintf("IPv%d/all-dead", f), func(t *testing.T) {
			s, sc := mk(t, Config{Ports: ports()}), newScene(f)
			sc.setGroup(hwmodel.Leg{NextHop: 2, Weight: 1, Dead: true}, hwmodel.Leg{NextHop: 3, Weight: 1, Dead: true})
			s.load(t, sc.Entries)
			s.expect(t, sc.in, sc.pkt.Frame(), trapped(hwmodel.ReasonNextHopDead))
		})
		t.Run(fmt.Sprintf("IPv%d/one-alive", f), func(t *testing.T) {
			s, sc := mk(t, Config{Ports: ports()}), newScene(f)
			sc.setGroup(hwmodel.Leg{NextHop: 2, Weight: 1, Dead: true}, hwmodel.Leg{NextHop: 3, Weight: 1}, hwmodel.Leg{NextHop: 4, Weight: 1, Dead: true})
			s.load(t, sc.Entries)
			r := rand.New(rand.NewPCG(6, 6))
			for range 50 {
				s.expectOut(t, sc.in, sc.flow(r).Frame(), 3)
			}
		})
		t.Run(fmt.Sprintf("IPv%d/trapping-leg", f), func(t *testing.T) {
			// A leg that traps still takes its share.
			s, sc := mk(t, Config{Ports: ports()}), newScene(f)
			sc.setGroup(hwmodel.Leg{NextHop: 2, Weight: 1}, hwmodel.Leg{NextHop: 3, Weight: 1})
			sc.hop().Trap = hwmodel.ReasonNotAPort
			s.load(t, sc.Entries)
			r := rand.New(rand.NewPCG(7, 7))
			seen := map[hwmodel.Verdict]int{}
			for range 200 {
				got := s.send(t, sc.in, sc.flow(r).Frame())
				seen[got.Verdict]++
				if got.Verdict == hwmodel.Trap && got.Reason != hwmodel.ReasonNotAPort {
					t.Fatalf("got %v", got)
				}
			}
			if seen[hwmodel.Trap] < 50 || seen[hwmodel.Forward] < 50 {
				t.Errorf("verdicts %v", seen)
			}
		})
		t.Run(fmt.Sprintf("IPv%d/policy-not-computed", f), func(t *testing.T) {
			// Whatever the device does with such settings, it may not guess.
			s, sc := mk(t, Config{Ports: ports()}), newScene(f)
			sc.setGroup(hwmodel.Leg{NextHop: 2, Weight: 1}, hwmodel.Leg{NextHop: 3, Weight: 1})
			s.load(t, sc.Entries)
			odd := *sc.Settings
			odd.HashPolicy4, odd.HashPolicy6 = 3, 3
			if _, err := s.Apply(t.Context(), &hwmodel.Batch{Set: hwmodel.Entries{Settings: &odd}}); err != nil {
				t.Fatal(err)
			}
			s.expectTrap(t, sc.in, sc.pkt.Frame())
			// One live leg is no choice.
			sc.setGroup(hwmodel.Leg{NextHop: 2, Weight: 1, Dead: true}, hwmodel.Leg{NextHop: 3, Weight: 1})
			if _, err := s.Apply(t.Context(), &hwmodel.Batch{Set: hwmodel.Entries{Groups: sc.Groups}}); err != nil {
				t.Fatal(err)
			}
			if got := s.send(t, sc.in, sc.pkt.Frame()); got.Verdict != hwmodel.Forward {
				t.Errorf("one live leg: got %v", got)
			}
		})
	}
	t.Run("known-answers", func(t *testing.T) { testKnownAnswers(t, mk) })
}
