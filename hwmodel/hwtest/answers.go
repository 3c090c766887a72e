package hwtest

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"antiphon/hwmodel"
)

// knownAnswers are the egress ports, one digit each, of the answerPackets. They
// are what refpipe gives, which was compared with Linux 6.18
// (hwmodel/refpipe/kernel_test.go).
var knownAnswers = []struct {
	family hwmodel.Family
	policy uint8
	ports  string
}{
	{hwmodel.IPv4, 0, "" +
		"5576667736774542744644564677767677643567564747673735747777776256377377257346775777347772777665776765" +
		"77575377764677364747765676677567647457767576356762727526737777747767"},
	{hwmodel.IPv4, 1, "" +
		"7677535655275567766467767675566772672737647767365577746677547576776777475744772475754677775747527366" +
		"52667646774765677737645575776567676775756737366775727675667377776475"},
	{hwmodel.IPv6, 0, "" +
		"6766756754763756666466764766677777375766734777477767755777767776476675666766376577774762675767766567" +
		"6657767657375777574672563757366676473562776763475643477667774663544767565362765577573477572776477643" +
		"5734367737672673727766674577777774667667666637777557675776554447666665577757576575543553777755666657" +
		"767765657767"},
	{hwmodel.IPv6, 1, "" +
		"7747676764563536576577774766677777375766346626567767755777767776676777657773647777774762675767765567" +
		"7667676573675777574662777577466575773467727767755456377667774663544666776756576767753276677765775564" +
		"7556727654736467767776477767766773353456657677747557675777765773625757347562747467667777667773675655" +
		"675265577624"},
}

// answerScene has a group of seven legs with odd weights, one of them dead.
func answerScene(f hwmodel.Family, policy uint8) *scene {
	sc := newScene(f)
	sc.Settings = &hwmodel.Settings{HashPolicy4: policy, HashPolicy6: policy, HashSeed: 0xfeedbeef, SeedKnown: true}
	var legs []hwmodel.Leg
	for port, weight := range []uint32{2: 1, 3: 2, 4: 3, 5: 5, 6: 8, 7: 13, 8: 256} {
		if weight != 0 {
			legs = append(legs, hwmodel.Leg{NextHop: hwmodel.NextHopID(port), Weight: weight, Dead: port == 8})
		}
	}
	sc.setGroup(legs...)
	return sc
}

// answerPackets are flows of many kinds: transports, fragments, chains of
// extension headers, ICMP errors.
func answerPackets(sc *scene) (all []Packet) {
	r := rand.New(rand.NewPCG(9, 9))
	payload := func() []byte {
		b := make([]byte, 60)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	add := func(change func(p *Packet)) {
		for range 8 {
			p := sc.flow(r)
			p.Payload = payload()
			change(&p)
			all = append(all, p)
		}
	}
	add(func(p *Packet) {})
	add(func(p *Packet) { p.Proto = 6 })
	add(func(p *Packet) { p.FlowLabel = r.Uint32N(1 << 20) })
	for _, proto := range []uint8{1, 4, 33, 41, 47, 50, 51, 58, 59, 132, 136, 253} {
		add(func(p *Packet) { p.Proto = proto })
	}
	add(func(p *Packet) { p.Flags = 1 })
	add(func(p *Packet) { p.Offset = 9 })
	for range 4 {
		add(func(p *Packet) { icmpError(r, sc.family(), p) })
	}
	if sc.family() == hwmodel.IPv6 {
		for _, header := range []uint8{43, 44, 60} {
			for _, next := range []byte{17, 6, 51, 60, 44, 59} {
				add(func(p *Packet) { p.Proto, p.Payload[0], p.Payload[1] = header, next, byte(r.IntN(3)) })
			}
		}
	}
	return all
}

func testKnownAnswers(t *testing.T, mk maker) {
	for _, a := range knownAnswers {
		t.Run(fmt.Sprintf("IPv%d/policy-%d", a.family, a.policy), func(t *testing.T) {
			s, sc := mk(t, Config{Ports: ports()}), answerScene(a.family, a.policy)
			s.load(t, sc.Entries)
			packets := answerPackets(sc)
			if len(packets) != len(a.ports) {
				t.Fatalf("%d packets, %d answers", len(packets), len(a.ports))
			}
			for i, p := range packets {
				s.expectOut(t, sc.in, p.Frame(), hwmodel.PortID(a.ports[i]-'0'))
			}
		})
	}
}
