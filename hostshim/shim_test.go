package hostshim_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"antiphon/hostshim"
	"antiphon/internal/netnstest"
	"antiphon/netstate"
	"antiphon/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// deadline ends a test that would hang.
const deadline = 20 * time.Second

// agent is a tiny agent: it grants sessions and hands the test both directions.
type agent struct {
	transport.UnimplementedAgentServer
	sessions chan *session
}

type session struct {
	t     *testing.T
	hello *transport.Hello
	grpc.BidiStreamingServer[transport.FromShim, transport.FromAgent]
	end  chan struct{}
	seq  uint64
	dump uint64
	// withhold: blocks are not paid back.
	withhold bool
}

func (a *agent) Session(s grpc.BidiStreamingServer[transport.FromShim, transport.FromAgent]) error {
	h, err := transport.ReceiveHello(s)
	if err != nil {
		return err
	}
	mine := &session{hello: h, BidiStreamingServer: s, end: make(chan struct{})}
	select {
	case a.sessions <- mine:
	case <-s.Context().Done():
		return nil
	}
	select {
	case <-mine.end:
		return errors.New("the test ends the session")
	case <-s.Context().Done():
		return nil
	}
}

// world is a namespace with a shim, and the agent's side of its session.
type world struct {
	ns    *netnstest.NS
	agent *agent
	api   string
	done  chan error
	stop  context.CancelFunc
}

func start(t *testing.T, ns *netnstest.NS, change func(*hostshim.Options)) *world {
	t.Helper()
	pipe := transport.NewPipe()
	w := &world{ns: ns, agent: &agent{sessions: make(chan *session)}, api: filepath.Join(t.TempDir(), "shim.sock"), done: make(chan error, 1)}
	srv := transport.NewServer()
	transport.RegisterAgentServer(srv, w.agent)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(pipe) }()
	opt := hostshim.Options{API: w.api, Netns: ns.Name(), Log: zerolog.New(zerolog.NewTestWriter(t)), Connect: func() (*grpc.ClientConn, error) { return pipe.Connect() }}
	if change != nil {
		change(&opt)
	}
	var ctx context.Context
	ctx, w.stop = context.WithCancel(context.Background())
	go func() { w.done <- hostshim.New(opt).Run(ctx) }()
	t.Cleanup(func() {
		w.stop()
		if err, ok := <-w.done; ok && err != nil {
			t.Errorf("shim: %v", err)
		}
		srv.Stop()
		<-served
	})
	return w
}

// accept takes the next session and welcomes it.
func (w *world) accept(t *testing.T, credit uint32) *session {
	t.Helper()
	select {
	case s := <-w.agent.sessions:
		s.t = t
		s.send(&transport.FromAgent{Msg: &transport.FromAgent_Welcome{Welcome: &transport.Welcome{Version: transport.Version, Epoch: 1, CreditBytes: credit}}})
		return s
	case err := <-w.done:
		close(w.done)
		t.Fatalf("shim ended: %v", err)
	case <-time.After(deadline):
		t.Fatal("no session")
	}
	return nil
}

func (s *session) send(m *transport.FromAgent) {
	s.t.Helper()
	if err := s.Send(m); err != nil {
		s.t.Fatal(err)
	}
}

func (s *session) ask(id uint64, verb string) {
	s.send(&transport.FromAgent{Msg: &transport.FromAgent_Ask{Ask: &transport.Ask{Id: id, Verb: verb}}})
}

// next returns the next message, checks its number and pays for it.
func (s *session) next() *transport.FromShim {
	s.t.Helper()
	m, err := s.Recv()
	if err != nil {
		s.t.Fatal(err)
	}
	if m.GetSeq() != 0 {
		if s.seq++; m.GetSeq() != s.seq {
			s.t.Fatalf("message %d where %d was due", m.GetSeq(), s.seq)
		}
	}
	if n := len(m.GetBlock().GetBytes()); n > 0 && !s.withhold {
		s.send(&transport.FromAgent{Msg: &transport.FromAgent_Credit{Credit: &transport.Credit{Bytes: uint32(n)}}})
	}
	return m
}

// until returns the messages up to the first one that stop accepts.
func (s *session) until(stop func(*transport.FromShim) bool) (list []*transport.FromShim) {
	s.t.Helper()
	for {
		m := s.next()
		list = append(list, m)
		if stop(m) {
			return list
		}
	}
}

// barrier asks for a barrier and returns everything up to its answer.
func (s *session) barrier(id uint64) []*transport.FromShim {
	s.t.Helper()
	s.ask(id, transport.VerbBarrier)
	return s.until(func(m *transport.FromShim) bool { return m.GetAnswer().GetId() == id })
}

// dumped asks for a dump and returns its rows and its end.
func (s *session) dumped(d *transport.Dump) ([]byte, *transport.DumpEnd) {
	s.t.Helper()
	s.dump++
	d.Id = s.dump
	s.send(&transport.FromAgent{Msg: &transport.FromAgent_Dump{Dump: d}})
	var rows []byte
	first := false
	for {
		m := s.next()
		if b := m.GetBlock(); b.GetDump() == d.Id {
			if b.GetFirst() {
				first = true
				if len(b.GetBytes()) > 0 || b.GetFilterTable() != d.GetFilterTable() || b.GetFilterOif() != d.GetFilterOif() || b.GetFilterFamily() != d.GetFilterFamily() {
					s.t.Fatalf("first block %v", b)
				}
			}
			if !first {
				s.t.Fatal("dump without a first block")
			}
			rows = append(rows, b.GetBytes()...)
		}
		if e := m.GetDumpEnd(); e.GetId() == d.Id {
			return rows, e
		}
	}
}

// messages splits netlink bytes and blanks the header's sequence and port.
func messages(t *testing.T, b []byte) (list [][]byte) {
	t.Helper()
	for len(b) > 0 {
		m, rest, err := netstate.NextMessage(b)
		if err != nil {
			t.Fatal(err)
		}
		raw := bytes.Clone(m.Raw)
		clear(raw[8:16])
		list, b = append(list, raw), rest
	}
	return list
}

// rawDump is an independent dump through mdlayher/netlink.
func rawDump(t *testing.T, ns *netnstest.NS, typ uint16, body []byte) (list [][]byte) {
	t.Helper()
	err := ns.Do(func() error {
		c, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{Strict: true})
		if err != nil {
			return err
		}
		defer c.Close()
		replies, err := c.Execute(netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(typ), Flags: netlink.Request | netlink.Dump}, Data: body})
		for _, m := range replies {
			m.Header.Sequence, m.Header.PID = 0, 0
			raw, err := m.MarshalBinary()
			if err != nil {
				return err
			}
			list = append(list, raw)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// topology makes a namespace with two cables, addresses, neighbours, nexthop
// objects, rules and some routes.
func topology(t *testing.T) *netnstest.NS {
	t.Helper()
	ns, out := netnstest.New(t), netnstest.New(t)
	ns.Router(t)
	for i := 1; i <= 2; i++ {
		p := fmt.Sprintf("swp%d", i)
		netnstest.Veth(t, netnstest.End{NS: out, Name: fmt.Sprintf("w%d", i), MAC: netnstest.MAC(uint16(0x100 + i)), Bare: true},
			netnstest.End{NS: ns, Name: p, MAC: netnstest.MAC(uint16(0x200 + i))})
		ns.IP(t, fmt.Sprintf("link property add dev %s altname antiphon-%s", p, p))
		ns.IP(t, fmt.Sprintf("addr add 10.0.%d.1/24 dev %s", i, p))
		ns.IP(t, fmt.Sprintf("addr add 2001:db8:%d::1/64 dev %s nodad", i, p))
		ns.IP(t, fmt.Sprintf("neigh add 10.0.%d.2 lladdr 02:00:00:00:00:0%d dev %s nud permanent", i, i, p))
	}
	for _, line := range []string{
		"nexthop add id 7 via 10.0.1.2 dev swp1", "nexthop add id 8 via 10.0.2.2 dev swp2", "nexthop add id 9 group 7/8",
		"route add 10.1.0.0/16 nhid 9", "route add 10.2.0.0/16 via 10.0.1.2 table 100", "route add 2001:db8:ff::/48 via 2001:db8:1::2",
		"rule add pref 100 to 10.2.0.0/16 lookup 100", "neigh add proxy 10.0.1.77 dev swp1",
	} {
		ns.IP(t, line)
	}
	return ns
}

// TestDumpsEqualTheKernels compares every kind with an independent dump.
func TestDumpsEqualTheKernels(t *testing.T) {
	ns := topology(t)
	s := start(t, ns, nil).accept(t, transport.DefaultCredit)
	if s.hello.GetNetnsCookie() == 0 || s.hello.GetTicket() == 0 || s.hello.GetHostId() == "" || len(s.hello.GetBootId()) != 36 || s.hello.GetKernelRelease() == "" {
		t.Errorf("hello %v", s.hello)
	}
	if m := s.next(); m.GetSettings() == nil || m.GetSeq() != 1 {
		t.Fatalf("begins with %v", m)
	}
	family := func(n int, f byte) []byte { b := make([]byte, n); b[0] = f; return b }
	proxy := func(f byte) []byte { b := family(unix.SizeofNdMsg, f); b[10] = unix.NTF_PROXY; return b }
	for kind, q := range map[netstate.Kind]struct {
		typ    uint16
		bodies [][]byte
	}{
		netstate.KindLink:     {unix.RTM_GETLINK, [][]byte{family(unix.SizeofIfInfomsg, 0)}},
		netstate.KindAddr:     {unix.RTM_GETADDR, [][]byte{family(unix.SizeofIfAddrmsg, unix.AF_INET), family(unix.SizeofIfAddrmsg, unix.AF_INET6)}},
		netstate.KindNeighbor: {unix.RTM_GETNEIGH, [][]byte{family(unix.SizeofNdMsg, unix.AF_INET), proxy(unix.AF_INET), family(unix.SizeofNdMsg, unix.AF_INET6)}},
		netstate.KindNexthop:  {unix.RTM_GETNEXTHOP, [][]byte{family(8, 0)}},
		netstate.KindRule:     {unix.RTM_GETRULE, [][]byte{family(12, unix.AF_INET), family(12, unix.AF_INET6)}},
		netstate.KindRoute:    {unix.RTM_GETROUTE, [][]byte{family(12, unix.AF_INET), family(12, unix.AF_INET6)}},
	} {
		var want [][]byte
		for _, b := range q.bodies {
			want = append(want, rawDump(t, ns, q.typ, b)...)
		}
		rows, end := s.dumped(&transport.Dump{Kind: uint32(kind)})
		got := messages(t, rows)
		if end.GetErrno() != 0 || end.GetInterrupted() || int(end.GetRows()) != len(got) || len(got) != len(want) {
			t.Errorf("%v: %d rows, want %d, end %v", kind, len(got), len(want), end)
			continue
		}
		for i := range want {
			if !netstate.Equal(kind, got[i], want[i]) {
				t.Errorf("%v row %d:\n% x\n% x", kind, i, got[i], want[i])
			}
		}
	}
}

// TestFilters dumps parts, and what the kernel refuses.
func TestFilters(t *testing.T) {
	ns := topology(t)
	s := start(t, ns, nil).accept(t, transport.DefaultCredit)
	swp1 := uint32(ns.Index(t, "swp1"))
	for _, c := range []struct {
		name  string
		dump  *transport.Dump
		rows  int
		errno unix.Errno
	}{
		{"table", &transport.Dump{Kind: uint32(netstate.KindRoute), FilterTable: 100}, 1, 0},
		{"no such table", &transport.Dump{Kind: uint32(netstate.KindRoute), FilterTable: 4711}, 0, 0},
		{"table and family", &transport.Dump{Kind: uint32(netstate.KindRoute), FilterTable: 100, FilterFamily: unix.AF_INET6}, 0, 0},
		{"no such link", &transport.Dump{Kind: uint32(netstate.KindRoute), FilterOif: 4711, FilterFamily: unix.AF_INET}, 0, unix.ENODEV},
		{"one link", &transport.Dump{Kind: uint32(netstate.KindLink), FilterOif: swp1}, 1, 0},
		{"link gone", &transport.Dump{Kind: uint32(netstate.KindLink), FilterOif: 4711}, 0, unix.ENODEV},
		{"nexthops of a link", &transport.Dump{Kind: uint32(netstate.KindNexthop), FilterOif: swp1}, 1, 0},
		{"addresses of a link", &transport.Dump{Kind: uint32(netstate.KindAddr), FilterOif: swp1, FilterFamily: unix.AF_INET}, 1, 0},
		{"neighbours of a link", &transport.Dump{Kind: uint32(netstate.KindNeighbor), FilterOif: swp1, FilterFamily: unix.AF_INET}, 2, 0},
		{"routes of a link", &transport.Dump{Kind: uint32(netstate.KindRoute), FilterOif: swp1, FilterFamily: unix.AF_INET, FilterTable: 100}, 1, 0},
		{"no such kind", &transport.Dump{Kind: 77}, 0, unix.EINVAL},
	} {
		rows, end := s.dumped(c.dump)
		if n := len(messages(t, rows)); n != c.rows || end.GetErrno() != uint32(c.errno) || end.GetInterrupted() || end.GetRows() != uint64(n) {
			t.Errorf("%s: %d rows, want %d; end %v", c.name, n, c.rows, end)
		}
	}
}

// TestBarrier: what was done before it stands before its marker, settings too.
func TestBarrier(t *testing.T) {
	ns := topology(t)
	s := start(t, ns, nil).accept(t, transport.DefaultCredit)
	s.barrier(1)
	for round := range 5 {
		ns.IP(t, fmt.Sprintf("route add 192.0.%d.0/24 via 10.0.1.2", round))
		ns.Sysctl(t, "net/ipv4/conf/swp1/rp_filter", fmt.Sprint(round%3))
		id := uint64(round + 2)
		list := s.barrier(id)
		var live []byte
		var value string
		marked := false
		for _, m := range list {
			if b := m.GetBlock(); b != nil {
				live = append(live, b.GetBytes()...)
			}
			for _, v := range m.GetSettings().GetSettings() {
				if v.GetName() == "net.ipv4.conf.swp1.rp_filter" {
					value = v.GetValue()
				}
			}
			if m.GetMarker() != nil {
				if marked = m.GetMarker().GetId() == id; !marked {
					t.Fatalf("marker %v", m)
				}
				break
			}
		}
		found := false
		for _, m := range messages(t, live) {
			found = found || bytes.Contains(m, []byte{192, 0, byte(round), 0})
		}
		if !marked || !found || (value != fmt.Sprint(round%3) && round > 0) {
			t.Fatalf("round %d: marker %v, route %v, rp_filter %q", round, marked, found, value)
		}
	}
}

// TestOverrun fills a small buffer while the window is shut.
func TestOverrun(t *testing.T) {
	ns := topology(t)
	w := start(t, ns, func(o *hostshim.Options) { o.LiveBuffer = 16 << 10 })
	s := w.accept(t, 1)
	s.barrier(1)
	s.withhold = true
	ns.IP(t, "route add 192.0.2.0/32 via 10.0.1.2")
	s.until(func(m *transport.FromShim) bool { return len(m.GetBlock().GetBytes()) > 0 }) // the window is shut now
	var lines strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&lines, "route add 198.18.%d.%d/32 via 10.0.1.2\n", i/256, i%256)
	}
	batch := filepath.Join(t.TempDir(), "batch")
	writeFile(t, batch, lines.String())
	ns.Run(t, "ip", "-batch", batch)
	s.withhold = false
	s.send(&transport.FromAgent{Msg: &transport.FromAgent_Credit{Credit: &transport.Credit{Bytes: transport.DefaultCredit}}})
	var live int
	list := s.barrier(2)
	overrun, marker := -1, -1
	for i, m := range list {
		live += len(m.GetBlock().GetBytes())
		if m.GetOverrun() != nil {
			overrun = i
		}
		if m.GetMarker() != nil {
			marker = i
		}
	}
	if overrun < 0 || marker < overrun || live == 0 {
		t.Fatalf("overrun at %d, marker at %d of %d, %d live bytes", overrun, marker, len(list), live)
	}
	for _, m := range list[overrun:] {
		if len(m.GetBlock().GetBytes()) > 0 {
			t.Fatal("the backlog goes on after Overrun was said")
		}
	}
	// Trustworthy again.
	ns.IP(t, "route add 203.0.113.0/24 via 10.0.1.2")
	found := false
	for _, m := range s.barrier(3) {
		found = found || bytes.Contains(m.GetBlock().GetBytes(), []byte{203, 0, 113, 0})
	}
	if !found {
		t.Fatal("nothing is heard after the overrun")
	}
}

// TestVerify reads the fresh state that the agent asks for.
func TestVerify(t *testing.T) {
	ns := topology(t)
	s := start(t, ns, nil).accept(t, transport.DefaultCredit)
	s.ask(9, transport.VerbVerify)
	var seq uint64
	rows := map[uint32]int{}
	var settings *transport.Settings
	for {
		a := s.next().GetAnswer()
		if a == nil {
			continue
		}
		if a.GetError() != "" {
			t.Fatal(a)
		}
		if !a.GetMore() {
			break
		}
		m := new(transport.FromShim)
		if err := proto.Unmarshal(a.GetBody(), m); err != nil {
			t.Fatal(err)
		}
		if seq++; m.GetSeq() != seq {
			t.Fatalf("seq %d, want %d", m.GetSeq(), seq)
		}
		if b := m.GetBlock(); b != nil {
			rows[b.GetKind()] += len(messages(t, b.GetBytes()))
		}
		if e := m.GetDumpEnd(); e != nil && (e.GetErrno() != 0 || int(e.GetRows()) != rows[e.GetKind()]) {
			t.Errorf("%v with %d rows", e, rows[e.GetKind()])
		}
		if m.GetSettings() != nil {
			settings = m.GetSettings()
		}
	}
	for _, k := range netstate.Kinds {
		if rows[uint32(k)] == 0 {
			t.Errorf("no rows of %v", k)
		}
	}
	if len(settings.GetSettings()) < 50 {
		t.Errorf("settings %v", settings)
	}
}

// TestRelay asks the agent through the shim's control socket.
func TestRelay(t *testing.T) {
	ns := netnstest.New(t)
	w := start(t, ns, nil)
	s := w.accept(t, transport.DefaultCredit)
	type result struct {
		body []byte
		exit int
		err  error
	}
	got := make(chan result, 1)
	call := func() {
		body, exit, err := transport.Call(t.Context(), w.api, transport.VerbShow, transport.ShowArgs{Kind: "route"})
		got <- result{body, exit, err}
	}
	go call()
	var ask *transport.Ask
	s.until(func(m *transport.FromShim) bool { ask = m.GetAsk(); return ask != nil })
	if ask.GetVerb() != transport.VerbShow || string(ask.GetBody()) != `{"kind":"route"}` {
		t.Errorf("ask %v", ask)
	}
	for _, a := range []*transport.Answer{
		{Id: 999, Body: []byte("for nobody")},
		{Id: ask.GetId(), Body: []byte("[1"), More: true},
		{Id: ask.GetId(), Body: []byte(",2]"), Exit: 1, Error: "half of it"},
	} {
		s.send(&transport.FromAgent{Msg: &transport.FromAgent_Answer{Answer: a}})
	}
	if r := <-got; string(r.body) != "[1,2]" || r.exit != 1 || r.err == nil || r.err.Error() != "half of it" {
		t.Errorf("%q %d %v", r.body, r.exit, r.err)
	}
	// The session ends under a question.
	go call()
	s.until(func(m *transport.FromShim) bool { return m.GetAsk() != nil })
	close(s.end)
	if r := <-got; r.exit != transport.ExitUnreachable || r.err == nil {
		t.Errorf("%q %d %v", r.body, r.exit, r.err)
	}
	// The shim comes again, with a higher number.
	if again := w.accept(t, 0); again.hello.GetConnection() <= s.hello.GetConnection() || again.hello.GetTicket() != s.hello.GetTicket() {
		t.Errorf("hello %v after %v", again.hello, s.hello)
	}
}

func TestFenced(t *testing.T) {
	ns := netnstest.New(t)
	w := start(t, ns, nil)
	select {
	case s := <-w.agent.sessions:
		s.t = t
		s.send(&transport.FromAgent{Msg: &transport.FromAgent_Fenced{Fenced: &transport.Fenced{Reason: "test"}}})
	case <-time.After(deadline):
		t.Fatal("no session")
	}
	err := <-w.done
	close(w.done)
	if !errors.Is(err, hostshim.ErrFenced) {
		t.Fatal(err)
	}
}

func TestOneShimPerNamespace(t *testing.T) {
	ns := netnstest.New(t)
	start(t, ns, nil).accept(t, 0)
	connect := func() (*grpc.ClientConn, error) { return nil, net.ErrClosed }
	if err := hostshim.New(hostshim.Options{Netns: ns.Path(), Connect: connect}).Run(t.Context()); !errors.Is(err, hostshim.ErrLocked) {
		t.Fatalf("second shim: %v", err)
	}
	var e *hostshim.NamespaceError
	if err := hostshim.New(hostshim.Options{Netns: "antiphon-nowhere"}).Run(t.Context()); !errors.As(err, &e) || !strings.Contains(err.Error(), "antiphon-nowhere") {
		t.Fatalf("missing namespace: %v", err)
	}
}
