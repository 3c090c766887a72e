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
		"5576667736774542726745356733575577777777665477367767767677677774455656664557663575745657556776573373" +
		"63747666477567666777767663377667777776766776556676667667547777556377"},
	{hwmodel.IPv4, 1, "" +
		"7677535655275567764665664666776757657744777747567752775676357767666674655767666457776577765376563747" +
		"67767757467677747676756747765473677673777667556556776747477666666673"},
	{hwmodel.IPv6, 0, "" +
		"6766756754763756676567756657576775636647675557766746653677577674476767477477767747743466666746375677" +
		"6745646727377757654667767773357563766666677246765347372767665756752566777665676646632477556645267766" +
		"7745565545726574747676476726773777366267777542756755276566375762474577777475474537737352745366574676" +
		"77466567475567766665364676645336674777577566577534275247767577657676"},
	{hwmodel.IPv6, 1, "" +
		"7747676764563536577536756657576775636647644646776746653677577674763627453676665547743466666746377775" +
		"6647776676777757654665767775567777657646675276757367362737665777655773747767575367766545575777276666" +
		"7745565545726574747676474646773566437736776677766667754676737556756477475554577753777667735377657676" +
		"67576567475557457367767664577677767466747676677677773777763747477225"},
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
	add(func(p *Packet) { p.FlowLabel, p.TOS = r.Uint32N(1<<20), uint8(r.Uint32()) })
	for _, proto := range []uint8{1, 4, 33, 41, 47, 50, 51, 58, 59, 132, 136, 253} {
		add(func(p *Packet) { p.Proto = proto })
	}
	add(func(p *Packet) { p.Flags = 1 })
	add(func(p *Packet) { p.Offset = 9 })
	for range 4 {
		add(func(p *Packet) { icmpError(r, sc.family(), p) })
	}
	if sc.family() == hwmodel.IPv6 {
		for n := 13; n < 20; n++ {
			add(func(p *Packet) { chain(p, n) })
		}
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
