package agent_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"google.golang.org/grpc"

	"antiphon/agent"
	"antiphon/agent/agenttest"
	"antiphon/hwmodel"
	"antiphon/hwmodel/refpipe"
	"antiphon/netstate"
	"antiphon/transport"
)

// patience bounds what a test waits for.
const patience = 20 * time.Second

// device is the reference pipe behind a switch: it can be gone, and come back as
// another one. It counts the batches that change something.
type device struct {
	pipe    atomic.Pointer[refpipe.Pipe] // nil: cannot be reached
	applied atomic.Int64
	life    atomic.Uint64
}

func newDevice() *device {
	d := &device{}
	d.restart()
	return d
}

func (d *device) restart() {
	d.pipe.Store(refpipe.New(refpipe.Options{
		Ports:    []hwmodel.PortInfo{{ID: 1, Name: "swp1"}, {ID: 2, Name: "swp2"}},
		Instance: d.life.Add(1),
	}))
}

func (d *device) Capabilities(ctx context.Context) (hwmodel.Capabilities, error) {
	if p := d.pipe.Load(); p != nil {
		return p.Capabilities(ctx)
	}
	return hwmodel.Capabilities{}, hwmodel.ErrUnavailable
}

func (d *device) Apply(ctx context.Context, b *hwmodel.Batch) (hwmodel.Result, error) {
	if p := d.pipe.Load(); p != nil {
		d.applied.Add(1)
		return p.Apply(ctx, b)
	}
	return hwmodel.Result{}, hwmodel.ErrUnavailable
}

func (d *device) Entries(ctx context.Context, yield func(*hwmodel.Entries) bool) error {
	if p := d.pipe.Load(); p != nil {
		return p.Entries(ctx, yield)
	}
	return hwmodel.ErrUnavailable
}

func (d *device) Counters(ctx context.Context, since uint64) (hwmodel.CounterReport, error) {
	if p := d.pipe.Load(); p != nil {
		return p.Counters(ctx, since)
	}
	return hwmodel.CounterReport{}, hwmodel.ErrUnavailable
}

func (d *device) Trace(ctx context.Context, in hwmodel.PortID, frame []byte) (hwmodel.TraceResult, error) {
	if p := d.pipe.Load(); p != nil {
		return p.Trace(ctx, in, frame)
	}
	return hwmodel.TraceResult{}, hwmodel.ErrUnavailable
}

// verdict is what happens to a packet for 10.9.1.1.
func (d *device) verdict(t *testing.T) (hwmodel.Verdict, hwmodel.Reason) {
	t.Helper()
	r, err := d.Trace(t.Context(), 1, agenttest.Frame(netip.MustParseAddr("10.9.1.1")))
	if err != nil {
		t.Fatal(err)
	}
	return r.Verdict, r.Reason
}

func (d *device) forwards(t *testing.T) {
	t.Helper()
	if v, why := d.verdict(t); v != hwmodel.Forward {
		t.Errorf("packet: %v (%v), want it forwarded", v, why)
	}
}

func (d *device) traps(t *testing.T, want hwmodel.Reason) {
	t.Helper()
	if v, why := d.verdict(t); v != hwmodel.Trap || why != want {
		t.Errorf("packet: %v (%v), want trap (%v)", v, why, want)
	}
}

// bench is a running agent and a way to connect to it.
type bench struct {
	*agent.Agent
	conn *grpc.ClientConn
	stop func()
}

func start(t *testing.T, cfg agent.Config) *bench {
	t.Helper()
	cfg.Log = zerolog.New(zerolog.NewTestWriter(t))
	a := agent.New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	srv := transport.NewServer()
	transport.RegisterAgentServer(srv, a)
	pipe := transport.NewPipe()
	go srv.Serve(pipe) // ends with Stop
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx, nil) }()
	conn, err := pipe.Connect()
	if err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop := func() {
		if stopped {
			return
		}
		stopped = true
		conn.Close()
		srv.Stop()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	}
	t.Cleanup(stop)
	return &bench{a, conn, stop}
}

func (b *bench) host(t *testing.T, ctx context.Context, hello *transport.Hello, hold agenttest.Hold) *agenttest.Host {
	t.Helper()
	h, err := agenttest.Connect(ctx, b.conn, hello, hold, agenttest.Router())
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func (b *bench) barrier(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := b.Barrier(ctx, false); err != nil {
		t.Fatalf("barrier: %v", err)
	}
}

// until waits for the agent's state to be as the test wants.
func (b *bench) until(t *testing.T, what string, is func(agent.View) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for good := false; !good; {
		if err := b.View(ctx, func(v agent.View) { good = is(v) }); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
}

var routed = netstate.Key{Kind: netstate.KindRoute, Family: 2, Len: 16, ID: 254, Addr: [16]byte{10, 9}}

func TestSnapshotToDevice(t *testing.T) {
	dev := newDevice()
	b := start(t, agent.Config{Device: dev})
	h := b.host(t, t.Context(), agenttest.Hello(), agenttest.Hold{Dumps: true})
	b.until(t, "settings", func(v agent.View) bool { return v.Settings() != nil && v.Status().DeviceUp })
	dev.traps(t, hwmodel.ReasonNoInterface) // nothing is programmed: unknown is not empty
	h.Release()
	b.barrier(t)
	dev.forwards(t)
	if err := h.Acked(); err != nil {
		t.Fatal(err)
	}
	b.until(t, "fate", func(v agent.View) bool {
		f := v.Fate(routed)
		if f.Reason != hwmodel.ReasonNone {
			t.Errorf("fate %+v", f)
		}
		return v.Status().InSync
	})
}

func TestChangeAndPresence(t *testing.T) {
	dev := newDevice()
	b := start(t, agent.Config{Device: dev})
	h := b.host(t, t.Context(), agenttest.Hello(), agenttest.Hold{})
	b.barrier(t)
	if err := h.Put(agenttest.Neighbor(3, agenttest.Gateway(), [6]byte{2, 0, 0, 0, 2, 2}, 0x20), true); err != nil { // FAILED
		t.Fatal(err)
	}
	b.barrier(t)
	dev.traps(t, hwmodel.ReasonNeighborUnresolved)
	if err := h.Put(agenttest.Neighbor(3, agenttest.Gateway(), [6]byte{2, 0, 0, 0, 2, 2}, 0x02), true); err != nil { // REACHABLE
		t.Fatal(err)
	}
	b.barrier(t)
	dev.forwards(t)
	h.Presences(&transport.Presence{What: "nftables", Detail: "table inet filter chain fwd hook forward"})
	b.barrier(t)
	dev.traps(t, hwmodel.ReasonUnmirroredNftables)
	h.Presences()
	b.barrier(t)
	dev.forwards(t)
}

func TestRestartWritesNothing(t *testing.T) {
	dev := newDevice()
	first := start(t, agent.Config{Device: dev})
	first.host(t, t.Context(), agenttest.Hello(), agenttest.Hold{})
	first.barrier(t)
	first.stop()
	before := dev.applied.Load()

	second := start(t, agent.Config{Device: dev})
	hello := agenttest.Hello()
	hello.Connection = 2
	h := second.host(t, t.Context(), hello, agenttest.Hold{Dumps: true})
	second.until(t, "device", func(v agent.View) bool { return v.Status().DeviceUp && v.Settings() != nil })
	dev.forwards(t) // not yet caught up: the device goes on
	h.Release()
	second.barrier(t)
	dev.forwards(t)
	if n := dev.applied.Load() - before; n != 0 {
		t.Errorf("%d batches were written although nothing had changed", n)
	}
}

func TestDeviceRestart(t *testing.T) {
	dev := newDevice()
	b := start(t, agent.Config{Device: dev})
	b.host(t, t.Context(), agenttest.Hello(), agenttest.Hold{})
	b.barrier(t)
	dev.restart() // without being gone for a moment
	b.barrier(t)
	dev.forwards(t)
	dev.pipe.Store(nil)
	b.until(t, "device down", func(v agent.View) bool { return !v.Status().DeviceUp })
	dev.restart()
	b.barrier(t)
	dev.forwards(t)
}

func TestSilentChangeIsAudited(t *testing.T) {
	dev := newDevice()
	b := start(t, agent.Config{Device: dev, AuditInterval: -1})
	h := b.host(t, t.Context(), agenttest.Hello(), agenttest.Hold{})
	b.barrier(t)
	route := agenttest.Route(agenttest.RouteOf{Table: 254, Type: 1, Dst: netip.MustParsePrefix("10.9.0.0/16"), Via: agenttest.Gateway(), OIF: 3})
	if err := h.Remove(route); err != nil {
		t.Fatal(err)
	}
	b.barrier(t)
	dev.forwards(t) // nobody can know
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := b.Barrier(ctx, true); err != nil {
		t.Fatal(err)
	}
	dev.traps(t, hwmodel.ReasonNoRoute)
}

func TestOverrunTrapsUntilRead(t *testing.T) {
	dev := newDevice()
	b := start(t, agent.Config{Device: dev})
	h := b.host(t, t.Context(), agenttest.Hello(), agenttest.Hold{})
	b.barrier(t)
	h.Hold(agenttest.Hold{Dumps: true})
	h.Overrun()
	b.until(t, "overrun", func(v agent.View) bool { return v.Status().Overruns == 1 })
	for v, why := dev.verdict(t); v != hwmodel.Trap || why != hwmodel.ReasonResync; v, why = dev.verdict(t) {
	}
	h.Release()
	b.barrier(t)
	dev.forwards(t)
}

func TestGrace(t *testing.T) {
	dev := newDevice()
	b := start(t, agent.Config{Device: dev, Grace: 300 * time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	b.host(t, ctx, agenttest.Hello(), agenttest.Hold{})
	b.barrier(t)
	cancel()
	b.until(t, "session end", func(v agent.View) bool { return v.Status().Session == nil })
	dev.forwards(t) // within the grace time the device goes on
	for v, _ := dev.verdict(t); v != hwmodel.Trap; v, _ = dev.verdict(t) {
	}
	dev.traps(t, hwmodel.ReasonResync)
	hello := agenttest.Hello()
	hello.Connection = 2
	b.host(t, t.Context(), hello, agenttest.Hold{})
	b.barrier(t)
	dev.forwards(t)
}

// TestGraceWithoutSnapshot: a shim that connects and never completes a snapshot
// does not keep a device forwarding for ever.
func TestGraceWithoutSnapshot(t *testing.T) {
	dev := newDevice()
	b := start(t, agent.Config{Device: dev, Grace: 300 * time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	b.host(t, ctx, agenttest.Hello(), agenttest.Hold{})
	b.barrier(t)
	cancel()
	b.until(t, "session end", func(v agent.View) bool { return v.Status().Session == nil })
	hello := agenttest.Hello()
	hello.Connection = 2
	h := b.host(t, t.Context(), hello, agenttest.Hold{Dumps: true})
	dev.forwards(t)
	b.until(t, "doubt", func(v agent.View) bool { return v.Status().Doubt != "" && v.Status().Session != nil })
	for v, _ := dev.verdict(t); v != hwmodel.Trap; v, _ = dev.verdict(t) {
	}
	dev.traps(t, hwmodel.ReasonResync)
	h.Release()
	b.barrier(t)
	dev.forwards(t)
}

func TestFencing(t *testing.T) {
	b := start(t, agent.Config{Device: newDevice()})
	h := b.host(t, t.Context(), agenttest.Hello(), agenttest.Hold{})
	newer := agenttest.Hello()
	newer.Ticket = 9
	b.host(t, t.Context(), newer, agenttest.Hold{})
	var fenced *agenttest.FencedError
	if err := h.Wait(); !errors.As(err, &fenced) {
		t.Errorf("the older shim ended with %v, want it fenced", err)
	}
	if _, err := agenttest.Connect(t.Context(), b.conn, agenttest.Hello(), agenttest.Hold{}, nil); !errors.As(err, &fenced) {
		t.Errorf("the older shim came back: %v, want it fenced", err)
	}
	b.barrier(t)
}

func TestGapEndsSession(t *testing.T) {
	dev := newDevice()
	b := start(t, agent.Config{Device: dev})
	h := b.host(t, t.Context(), agenttest.Hello(), agenttest.Hold{})
	b.barrier(t)
	h.Send(&transport.FromShim{Seq: 1000, Msg: &transport.FromShim_Marker{Marker: &transport.Marker{}}})
	if err := h.Wait(); err == nil || !strings.Contains(err.Error(), "messages are missing") {
		t.Errorf("session ended with %v", err)
	}
	dev.forwards(t)
}

func TestBarrierNamesPending(t *testing.T) {
	b := start(t, agent.Config{Device: newDevice()})
	h := b.host(t, t.Context(), agenttest.Hello(), agenttest.Hold{Markers: true})
	try := func() []string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		var pending *agent.PendingError
		if err := b.Barrier(ctx, false); !errors.As(err, &pending) {
			t.Fatalf("barrier: %v, want what is pending", err)
		}
		return pending.Pending
	}
	if p := strings.Join(try(), ";"); !strings.Contains(p, "marker") {
		t.Errorf("pending: %s, want the marker", p)
	}
	h.Release()
	b.barrier(t)
	h.Hold(agenttest.Hold{Dumps: true})
	h.Overrun()
	if p := strings.Join(try(), ";"); p == "" || strings.Contains(p, "marker") {
		t.Errorf("pending: %s, want dumps", p)
	}
	h.Release()
	b.barrier(t)
}

func TestBarrierUnreachable(t *testing.T) {
	t.Parallel()
	dev := newDevice()
	b := start(t, agent.Config{Device: dev})
	var gone *agent.UnreachableError
	if err := b.Barrier(t.Context(), false); !errors.As(err, &gone) || gone.Part != "shim" {
		t.Errorf("without a shim: %v", err)
	}
	b.host(t, t.Context(), agenttest.Hello(), agenttest.Hold{})
	dev.pipe.Store(nil)
	if err := b.Barrier(t.Context(), false); !errors.As(err, &gone) || gone.Part != "device" {
		t.Errorf("without a device: %v", err)
	}
}

func TestTrafficTellsUseAndCounts(t *testing.T) {
	dev := newDevice()
	b := start(t, agent.Config{Device: dev})
	h := b.host(t, t.Context(), agenttest.Hello(), agenttest.Hold{})
	b.barrier(t)
	v := &hwmodel.Vector{N: 1}
	v.In[0], v.Frame[0] = 1, agenttest.Frame(netip.MustParseAddr("10.9.1.1"))
	dev.pipe.Load().Run(v)
	if v.Verdict[0] != hwmodel.Forward {
		t.Fatalf("packet: %v (%v)", v.Verdict[0], v.Reason[0])
	}
	used, err := h.Used()
	if err != nil {
		t.Fatal(err)
	}
	want := netstate.Key{Kind: netstate.KindNeighbor, Family: 2, ID: 3, Addr: [16]byte{10, 0, 2, 2}}
	if string(used) != string(want.AppendCanonical(nil)) {
		t.Errorf("in use: %x, want %x", used, want.AppendCanonical(nil))
	}
	c, err := h.Counter(routed, 1)
	if err != nil {
		t.Fatal(err)
	}
	if c.GetPackets() != 1 || c.GetBytes() != 42 {
		t.Errorf("route counted %d packets, %d bytes", c.GetPackets(), c.GetBytes())
	}
	// A restart of the device takes nothing away.
	dev.restart()
	b.barrier(t)
	v.N, v.Frame[0] = 1, agenttest.Frame(netip.MustParseAddr("10.9.1.1"))
	dev.pipe.Load().Run(v)
	if c, err = h.Counter(routed, 2); err != nil || c.GetPackets() != 2 {
		t.Errorf("after a restart of the device: %v %v, want 2 packets", c, err)
	}
}

// TestNewShimLearnsCounts: what was counted for an earlier shim, and while there
// was none, is told to the next.
func TestNewShimLearnsCounts(t *testing.T) {
	dev := newDevice()
	b := start(t, agent.Config{Device: dev})
	ctx, cancel := context.WithCancel(t.Context())
	h := b.host(t, ctx, agenttest.Hello(), agenttest.Hold{})
	b.barrier(t)
	packet := func() {
		v := &hwmodel.Vector{N: 1}
		v.In[0], v.Frame[0] = 1, agenttest.Frame(netip.MustParseAddr("10.9.1.1"))
		dev.pipe.Load().Run(v)
	}
	packet()
	if _, err := h.Counter(routed, 1); err != nil {
		t.Fatal(err)
	}
	cancel()
	b.until(t, "session end", func(v agent.View) bool { return v.Status().Session == nil })
	packet()
	b.until(t, "count", func(v agent.View) bool { return v.Count(routed).Packets == 2 })
	hello := agenttest.Hello()
	hello.Connection = 2
	if c, err := b.host(t, t.Context(), hello, agenttest.Hold{}).Counter(routed, 2); err != nil || c.GetPackets() != 2 {
		t.Errorf("the new shim was told %v, %v", c, err)
	}
}
