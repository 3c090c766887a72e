package api_test

import (
	"context"
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"antiphon/agent"
	"antiphon/agent/agenttest"
	"antiphon/agent/api"
	"antiphon/hwmodel"
	"antiphon/hwmodel/refpipe"
	"antiphon/transport"
)

// bench is an agent with a reference device and a scripted host.
type bench struct {
	*testing.T
	verbs *api.Verbs
	host  *agenttest.Host
	pipe  *refpipe.Pipe
}

func start(t *testing.T, opt refpipe.Options) *bench {
	t.Helper()
	opt.Ports = []hwmodel.PortInfo{{ID: 1, Name: "swp1"}, {ID: 2, Name: "swp2"}}
	pipe := refpipe.New(opt)
	a := agent.New(agent.Config{Log: zerolog.New(zerolog.NewTestWriter(t)), Device: pipe})
	verbs := api.New(a)
	ctx, cancel := context.WithCancel(context.Background())
	srv := transport.NewServer()
	transport.RegisterAgentServer(srv, a)
	listener := transport.NewPipe()
	go srv.Serve(listener) // ends with Stop
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx, verbs.Call) }()
	conn, err := listener.Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		srv.Stop()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	host, err := agenttest.Connect(ctx, conn, agenttest.Hello(), agenttest.Hold{}, agenttest.Router())
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t, verbs, host, pipe}
	b.call("barrier", ``, transport.ExitOK, nil)
	return b
}

// call asks and decodes the answer's document into doc, unless that is nil.
func (b *bench) call(verb, args string, exit int, doc any) error {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), 30*time.Second)
	defer cancel()
	body, got, err := b.verbs.Call(ctx, verb, []byte(args))
	if got != exit {
		b.Fatalf("%s %s: exit %d (%v), want %d: %s", verb, args, got, err, exit, body)
	}
	if doc != nil {
		if err := json.Unmarshal(body, doc); err != nil {
			b.Fatalf("%s %s: %v in %s", verb, args, err, body)
		}
	}
	return err
}

type shown struct {
	Dst, Dev, Table, Ifname, Fate, Reason string
	Seq                                   uint64
	Packets, Bytes                        *uint64
}

func (b *bench) show(args string) []shown {
	b.Helper()
	var rows []shown
	b.call("show", args, transport.ExitOK, &rows)
	return rows
}

func TestShow(t *testing.T) {
	b := start(t, refpipe.Options{})
	for _, c := range []struct {
		args string
		want string // dst or ifname of each, in any order of tables
	}{
		{`{"kind":"route","filter":["10.9.0.0/16"]}`, "10.9.0.0/16"},
		{`{"kind":"route","filter":["table","local"]}`, "10.0.1.1 10.0.2.1"},
		{`{"kind":"route","filter":["root","10.9.0.0/8"]}`, ""},
		{`{"kind":"route","filter":["root","10.0.0.0/14"]}`, "10.0.1.1 10.0.1.0/24 10.0.2.1 10.0.2.0/24"},
		{`{"kind":"route","filter":["match","10.9.1.0/24"]}`, "10.9.0.0/16"},
		{`{"kind":"route","filter":["dev","swp1","table","main"]}`, "10.0.1.0/24"},
		{`{"kind":"route","filter":["via","10.0.2.2"]}`, "10.9.0.0/16"},
		{`{"kind":"route","family":10}`, ""},
		{`{"kind":"neighbor"}`, "10.0.2.2"},
		{`{"kind":"neigh","filter":["dev","swp1"]}`, ""},
		{`{"kind":"link","filter":["antiphon-swp2"]}`, "swp2"},
		{`{"kind":"addr","filter":["dev","swp2"]}`, "swp2"},
		{`{"kind":"link","filter":["fate","offloaded"]}`, "swp1 swp2"},
	} {
		if strings.Contains(c.args, "10.9.0.0/8") {
			if err := b.call("show", c.args, transport.ExitUsage, nil); !strings.Contains(err.Error(), "did you mean 10.0.0.0/8") {
				t.Errorf("%s: %v", c.args, err)
			}
			continue
		}
		var got []string
		for _, r := range b.show(c.args) {
			got = append(got, r.Dst+r.Ifname)
			if r.Fate == "" || r.Seq == 0 || r.Packets == nil || r.Bytes == nil {
				t.Errorf("%s: %+v lacks keys of the contract", c.args, r)
			}
		}
		if !sameWords(strings.Join(got, " "), c.want) {
			t.Errorf("%s: %s, want %s", c.args, got, c.want)
		}
	}
	if r := b.show(`{"kind":"route","filter":["10.9.0.0/16"]}`)[0]; r.Fate != "offloaded" || r.Reason != "" {
		t.Errorf("routed network: %+v", r)
	}
	if r := b.show(`{"kind":"route","filter":["10.0.1.1"]}`)[0]; r.Fate != "trapped" || r.Reason != "local" {
		t.Errorf("own address: %+v", r)
	}
}

func sameWords(a, b string) bool {
	count := map[string]int{}
	for _, w := range strings.Fields(a) {
		count[w]++
	}
	for _, w := range strings.Fields(b) {
		count[w]--
	}
	for _, n := range count {
		if n != 0 {
			return false
		}
	}
	return true
}

func TestUsage(t *testing.T) {
	b := start(t, refpipe.Options{})
	for _, c := range [...][2]string{
		{"shout", ``},
		{"show", `{"kind":"cow"}`},
		{"show", `{"kind":"route","filter":["table"]}`},
		{"show", `{"kind":"route","filter":["table","many"]}`},
		{"show", `{"kind":"route","filter":["dev","a","dev","b"]}`},
		{"show", `{"kind":"route","filter":["10.0.0.0/33"]}`},
		{"show", `{"kind":"link","filter":["a","b"]}`},
		{"show", `{"kind":"route","family":7}`},
		{"show", `{"kind":"route","colour":"red"}`},
		{"show", `{"kind":"route"} {}`},
		{"barrier", `not json`},
		{"why", ``},
		{"why", `{"object":["10.0.0.0/8"],"refused":true}`},
		{"why", `{"object":["10.0.0.0/8","dev"]}`},
		{"why", `{"object":["route","10.0.0.1/8"]}`},
		{"why", `{"object":["nexthop","many"]}`},
		{"trace", `{"port":"swp1","frame":"AAAA"}`},
		{"trace", `{"port":"swp9","frame":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}`},
	} {
		if err := b.call(c[0], c[1], transport.ExitUsage, nil); err == nil {
			t.Errorf("%s %s: no error text", c[0], c[1])
		}
	}
}

func (b *bench) why(args string) api.WhyAnswer {
	b.Helper()
	// The kernel's object does not decode back: it is ordered fields.
	var raw struct{ Objects []map[string]json.RawMessage }
	b.call("why", args, transport.ExitOK, &raw)
	var a api.WhyAnswer
	for _, o := range raw.Objects {
		delete(o, "kernel")
		text, err := json.Marshal(o)
		if err != nil {
			b.Fatal(err)
		}
		var e api.Explanation
		if err := json.Unmarshal(text, &e); err != nil {
			b.Fatal(err)
		}
		a.Objects = append(a.Objects, e)
	}
	return a
}

func TestWhy(t *testing.T) {
	b := start(t, refpipe.Options{})
	for _, c := range []struct{ args, object, kind, fate, reason string }{
		{`{"object":["10.9.0.0/16"]}`, "10.9.0.0/16", "route", "offloaded", ""},
		{`{"object":["10.9.3.4"]}`, "10.9.0.0/16", "route", "offloaded", ""},
		{`{"object":["10.0.1.1"]}`, "10.0.1.1/24 dev swp1", "address", "trapped", "local"},
		{`{"object":["10.0.1.1/32","table","local"]}`, "10.0.1.1/32 table local", "route", "trapped", "local"},
		{`{"object":["10.0.2.2","dev","swp2"]}`, "10.0.2.2 dev swp2", "neighbor", "offloaded", ""},
		{`{"object":["swp1"]}`, "swp1", "link", "offloaded", ""},
		{`{"object":["rule","32767"]}`, "rule 32767", "rule", "offloaded", ""},
	} {
		a := b.why(c.args)
		if len(a.Objects) != 1 {
			t.Errorf("%s: %d objects", c.args, len(a.Objects))
			continue
		}
		e := a.Objects[0]
		if e.Object != c.object || e.Kind != c.kind || e.Fate != c.fate || e.Reason != c.reason || len(e.Traps) != 0 {
			t.Errorf("%s: %+v", c.args, e)
		}
	}
	if err := b.call("why", `{"object":["192.0.2.0/24"]}`, transport.ExitNegative, nil); !strings.Contains(err.Error(), "the kernel has no 192.0.2.0/24") {
		t.Errorf("missing route: %v", err)
	}

	// What sits in front of everything is named, whatever is asked about.
	b.host.Presences(&transport.Presence{What: "nftables", Detail: "table inet filter chain fwd hook forward"})
	b.call("barrier", ``, transport.ExitOK, nil)
	e := b.why(`{"object":["10.9.0.0/16"]}`).Objects[0]
	if len(e.Traps) != 1 || e.Traps[0].Reason != "unmirrored-nftables" || !strings.Contains(e.Traps[0].Detail, "chain fwd") || e.Fix == "" {
		t.Errorf("with a chain: %+v", e)
	}
	// What sits at one port concerns packets that come in there.
	b.host.Presences(&transport.Presence{What: "tc", Ifindex: 2, Ingress: true, Detail: "qdisc clsact on swp1"})
	b.call("barrier", ``, transport.ExitOK, nil)
	e = b.why(`{"object":["10.9.0.0/16"]}`).Objects[0]
	if e.Fate != "offloaded" || len(e.Traps) != 1 || e.Traps[0].Scope != "dev swp1 ingress" || !strings.Contains(e.Says, "some of its packets") {
		t.Errorf("with an ingress qdisc: %+v", e)
	}
}

func (b *bench) verify(exit int) api.VerifyAnswer {
	b.Helper()
	var a api.VerifyAnswer
	b.call("verify", ``, exit, &a)
	return a
}

func TestVerify(t *testing.T) {
	b := start(t, refpipe.Options{})
	if a := b.verify(transport.ExitOK); len(a.Differences) != 0 || a.Checked["route"] != 5 || a.Checked["device"] == 0 {
		t.Errorf("at rest: %+v", a)
	}
	// The device loses a route behind the agent's back.
	gone := hwmodel.RouteKey{Table: 254, Prefix: netip.MustParsePrefix("10.9.0.0/16")}
	if _, err := b.pipe.Apply(t.Context(), &hwmodel.Batch{Delete: hwmodel.Keys{Routes: []hwmodel.RouteKey{gone}}}); err != nil {
		t.Fatal(err)
	}
	a := b.verify(transport.ExitNegative)
	if len(a.Differences) != 1 || a.Differences[0].Where != "device" || a.Differences[0].Kind != "route" || a.Differences[0].Have != nil {
		t.Errorf("a route is missing in the device: %+v", a.Differences)
	}
}

func TestVerifyFindsWhatNobodyTold(t *testing.T) {
	b := start(t, refpipe.Options{})
	if err := b.host.Put(agenttest.Route(agenttest.RouteOf{Table: 254, Type: 6, Dst: netip.MustParsePrefix("10.10.0.0/16")}), false); err != nil {
		t.Fatal(err)
	}
	where := map[string]int{}
	for _, d := range b.verify(transport.ExitNegative).Differences {
		where[d.Where]++
		if !strings.HasPrefix(d.Key, "10.10.0.0/16") {
			t.Errorf("%+v", d)
		}
	}
	if where["agent"] != 1 || where["device"] != 1 {
		t.Errorf("differences: %v", where)
	}
	b.call("barrier", `{"audit":true}`, transport.ExitOK, nil)
	b.verify(transport.ExitOK)
}

func TestRefusedIsNoDrift(t *testing.T) {
	var opt refpipe.Options
	opt.Sizes[hwmodel.TableRoute] = 4
	b := start(t, opt)
	refused := b.why(`{"refused":true}`).Objects
	if len(refused) == 0 {
		t.Fatal("a table of 4 took everything")
	}
	for _, e := range refused {
		if e.Fix == "" || e.Reason != "table-full" && e.Reason != "covers-refused" {
			t.Errorf("%+v", e)
		}
	}
	if a := b.verify(transport.ExitOK); len(a.Differences) != 0 {
		t.Errorf("%+v", a.Differences)
	}
	var s api.StatusAnswer
	b.call("status", ``, transport.ExitOK, &s)
	if s.Device.Refused != len(refused) || s.Device.Tables["route"].Size != 4 || s.Device.Tables["route"].Used > 4 {
		t.Errorf("status: %+v", s.Device)
	}
}

func TestRelay(t *testing.T) {
	b := start(t, refpipe.Options{})
	body, exit, problem := b.host.Ask(transport.VerbShow, []byte(`{"kind":"link"}`))
	var links []shown
	if err := json.Unmarshal(body, &links); err != nil || exit != 0 || problem != "" || len(links) != 2 {
		t.Errorf("relayed show: exit %d %q %v: %s", exit, problem, err, body)
	}
	if _, exit, problem := b.host.Ask("shout", nil); exit != transport.ExitUsage || problem == "" {
		t.Errorf("relayed nonsense: exit %d %q", exit, problem)
	}
}

func TestStatusSaysWhatIsWrong(t *testing.T) {
	b := start(t, refpipe.Options{})
	var s api.StatusAnswer
	b.call("status", ``, transport.ExitOK, &s)
	if !s.Healthy || !s.Host.InSync || !s.Multipath.SeedKnown || len(s.Traps) != 0 || len(s.NotHere) != 1 {
		t.Errorf("%+v", s)
	}
	b.host.Hold(agenttest.Hold{Dumps: true})
	b.host.Overrun()
	for s.Agent.Doubt == "" {
		var raw json.RawMessage
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		body, _, err := b.verbs.Call(ctx, "status", nil)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		raw = body
		if err := json.Unmarshal(raw, &s); err != nil {
			t.Fatal(err)
		}
	}
	if s.Healthy || s.Host.Overruns != 1 || len(s.Traps) != 1 || s.Traps[0].Scope != "everything" {
		t.Errorf("after an overrun: %+v", s)
	}
	b.host.Release()
}
