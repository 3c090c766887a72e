package remote

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"antiphon/hwmodel"
)

// fill sets every field of a value to something that is not zero and valid. A
// field that the mapping forgets comes back as zero, so a test that compares
// sees it, also one that is added later.
func fill(r *rand.Rand, v reflect.Value) {
	random := func(limit int) uint64 { return 1 + uint64(r.IntN(limit)) }
	switch v.Interface().(type) {
	case netip.Addr:
		v.Set(reflect.ValueOf(fillAddr(r)))
		return
	case netip.Prefix:
		a := fillAddr(r)
		v.Set(reflect.ValueOf(netip.PrefixFrom(a, r.IntN(a.BitLen()+1)).Masked()))
		return
	case hwmodel.Reason:
		v.SetUint(random(hwmodel.ReasonCount - 1))
		return
	case hwmodel.Table:
		v.SetUint(random(hwmodel.TableCount - 1))
		return
	case hwmodel.RPMode, hwmodel.Verdict:
		v.SetUint(random(2))
		return
	case hwmodel.RouteAction, hwmodel.RuleAction:
		v.SetUint(random(3))
		return
	case hwmodel.Family:
		v.SetUint(2 + 2*random(2))
		return
	}
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(true)
	case reflect.String:
		v.SetString(fmt.Sprint("s", r.Uint32()))
	case reflect.Int:
		v.SetInt(int64(random(1 << 30)))
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(r.Uint64()>>(64-v.Type().Bits()) | 1)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(r, v.Elem())
	case reflect.Slice:
		n := int(random(3))
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		fallthrough
	case reflect.Array:
		for i := range v.Len() {
			fill(r, v.Index(i))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			fill(r, v.Field(i))
		}
	default:
		panic("no value for a " + v.Type().String())
	}
}

func fillAddr(r *rand.Rand) netip.Addr {
	var b [16]byte
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	if r.IntN(2) == 0 {
		return netip.AddrFrom4([4]byte(b[:4]))
	}
	return netip.AddrFrom16(b)
}

// filled returns a filled T.
func filled[T any](r *rand.Rand) (v T) {
	fill(r, reflect.ValueOf(&v).Elem())
	return v
}

// played is a device that answers what it is told and keeps what it is asked.
type played struct {
	capabilities hwmodel.Capabilities
	result       hwmodel.Result
	entries      []*hwmodel.Entries
	report       hwmodel.CounterReport
	trace        hwmodel.TraceResult
	err          error

	applied []*hwmodel.Batch
	since   uint64
	in      hwmodel.PortID
	frame   []byte
}

func (p *played) Capabilities(context.Context) (hwmodel.Capabilities, error) {
	return p.capabilities, p.err
}

func (p *played) Apply(_ context.Context, b *hwmodel.Batch) (hwmodel.Result, error) {
	p.applied = append(p.applied, b)
	return p.result, p.err
}

func (p *played) Entries(_ context.Context, yield func(*hwmodel.Entries) bool) error {
	for _, e := range p.entries {
		if !yield(e) {
			return nil
		}
	}
	return p.err
}

func (p *played) Counters(_ context.Context, since uint64) (hwmodel.CounterReport, error) {
	p.since = since
	return p.report, p.err
}

func (p *played) Trace(_ context.Context, in hwmodel.PortID, frame []byte) (hwmodel.TraceResult, error) {
	p.in, p.frame = in, frame
	return p.trace, p.err
}

// serve serves a device until stop or the test's end.
func serve(t *testing.T, url string, device hwmodel.Device) (stop func()) {
	t.Helper()
	listener, err := Listen(url)
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, listener, device) }()
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			cancel()
			check(t, <-done)
		}
	}
	t.Cleanup(stop)
	return stop
}

func newURL(t *testing.T) string { return "unix://" + filepath.Join(t.TempDir(), "device.sock") }

func client(t *testing.T, url string) *Client {
	t.Helper()
	c, err := NewClient(url)
	check(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var equalIP = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

func same(t *testing.T, what string, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got, equalIP); d != "" {
		t.Errorf("%s differs (-want +got):\n%s", what, d)
	}
}

func TestEveryFieldTravels(t *testing.T) {
	device := &played{}
	url := newURL(t)
	serve(t, url, device)
	c := client(t, url)
	ctx := t.Context()
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 1))
		device.capabilities = filled[hwmodel.Capabilities](r)
		device.capabilities.Sizes[0] = 0 // no table
		capabilities, err := c.Capabilities(ctx)
		check(t, err)
		same(t, "capabilities", capabilities, device.capabilities)

		batch := filled[hwmodel.Batch](r)
		device.result = filled[hwmodel.Result](r)
		device.applied = nil
		result, err := c.Apply(ctx, &batch)
		check(t, err)
		same(t, "result", result, device.result)
		if len(device.applied) != 1 {
			t.Fatalf("applied %d times", len(device.applied))
		}
		same(t, "batch", device.applied[0], &batch)

		want := filled[hwmodel.Entries](r)
		device.entries = []*hwmodel.Entries{&want}
		var got hwmodel.Entries
		check(t, c.Entries(ctx, func(e *hwmodel.Entries) bool { addEntries(&got, e); return true }))
		same(t, "entries", got, want)

		device.report = filled[hwmodel.CounterReport](r)
		report, err := c.Counters(ctx, seed)
		check(t, err)
		same(t, "report", report, device.report)
		same(t, "since", device.since, seed)

		device.trace = filled[hwmodel.TraceResult](r)
		frame := filled[[]byte](r)
		trace, err := c.Trace(ctx, 7, frame)
		check(t, err)
		same(t, "trace", trace, device.trace)
		same(t, "frame", device.frame, frame)
		same(t, "in", device.in, hwmodel.PortID(7))
		if t.Failed() {
			return
		}
	}
}

// Zero values are values too.
func TestNothingTravels(t *testing.T) {
	device := &played{entries: []*hwmodel.Entries{{}}}
	url := newURL(t)
	serve(t, url, device)
	c := client(t, url)
	if r, err := c.Apply(t.Context(), &hwmodel.Batch{}); err != nil || r.Refused != nil {
		t.Errorf("result %v (%v)", r, err)
	}
	same(t, "batch", device.applied, []*hwmodel.Batch{{}})
	capabilities, err := c.Capabilities(t.Context())
	check(t, err)
	same(t, "capabilities", capabilities, hwmodel.Capabilities{})
	batch := &hwmodel.Batch{Set: hwmodel.Entries{
		Settings: &hwmodel.Settings{}, NextHops: make([]hwmodel.NextHop, 1),
		Rules: []hwmodel.Rules{{Family: 4, List: []hwmodel.Rule{{SuppressPrefixLen: -1}}}},
	}}
	_, err = c.Apply(t.Context(), batch)
	check(t, err)
	same(t, "batch", device.applied[1], batch)
}

func TestBigBatchIsOneStep(t *testing.T) {
	device := &played{}
	url := newURL(t)
	serve(t, url, device)
	c := client(t, url)
	var b hwmodel.Batch
	for i := range 100_000 {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		key := hwmodel.RouteKey{Table: 1, Prefix: netip.PrefixFrom(a, 32)}
		b.Set.Routes = append(b.Set.Routes, hwmodel.Route{RouteKey: key, Group: hwmodel.GroupID(i)})
		b.Delete.Routes = append(b.Delete.Routes, key)
		device.result.Refused = append(device.result.Refused, hwmodel.Refusal{Table: hwmodel.TableRoute, Reason: hwmodel.ReasonTableFull, Route: key})
		device.report.Counters = append(device.report.Counters, hwmodel.Counter{ID: hwmodel.CounterID(i + 1)})
	}
	for i := range 200 {
		b.Set.Groups = append(b.Set.Groups, hwmodel.Group{ID: hwmodel.GroupID(i + 1), Legs: make([]hwmodel.Leg, hwmodel.MaxGroupLegs)})
	}
	r, err := c.Apply(t.Context(), &b)
	check(t, err)
	if len(device.applied) != 1 {
		t.Fatalf("applied %d times", len(device.applied))
	}
	if !reflect.DeepEqual(device.applied[0], &b) {
		t.Error("the batch differs")
	}
	if !reflect.DeepEqual(r, device.result) {
		t.Error("the result differs")
	}
	device.entries = []*hwmodel.Entries{&b.Set}
	var got hwmodel.Entries
	check(t, c.Entries(t.Context(), func(e *hwmodel.Entries) bool { addEntries(&got, e); return true }))
	if !reflect.DeepEqual(got, b.Set) {
		t.Error("the entries differ")
	}
	report, err := c.Counters(t.Context(), 0)
	check(t, err)
	if !reflect.DeepEqual(report, device.report) {
		t.Error("the counters differ")
	}
	calls := 0
	check(t, c.Entries(t.Context(), func(*hwmodel.Entries) bool { calls++; return false }))
	if calls != 1 {
		t.Errorf("%d calls after the end", calls)
	}
}

// A batch whose stream breaks before its end is not applied.
func TestHalfABatchIsNone(t *testing.T) {
	device := &played{}
	url := newURL(t)
	stop := serve(t, url, device)
	c := client(t, url)
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := c.device.Apply(ctx)
	check(t, err)
	check(t, stream.Send(&Batch{Set: &Entries{Settings: &Settings{}}}))
	cancel()
	if _, err := stream.Recv(); status.Code(err) != codes.Canceled {
		t.Errorf("error %v", err)
	}
	stop()
	if len(device.applied) != 0 {
		t.Error("applied")
	}
}

func TestMalformedRequests(t *testing.T) {
	device := &played{}
	url := newURL(t)
	serve(t, url, device)
	path, _ := socketPath(url)
	conn, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	check(t, err)
	defer conn.Close()
	raw := NewDeviceClient(conn)
	four := []byte{10, 0, 0, 0}
	key := &RouteKey{Table: 1, Prefix: &Prefix{Addr: four, Bits: 8}}
	for says, b := range map[string]*Batch{
		"set.interfaces[0].port: 65536, expected at most 65535":     {Set: &Entries{Interfaces: []*Interface{{Port: 65536}}}},
		"set.interfaces[0].mac: 2 bytes, expected 6":                {Set: &Entries{Interfaces: []*Interface{{Mac: []byte{1, 2}}}}},
		"set.interfaces[0].in4: 255, expected at most":              {Set: &Entries{Interfaces: []*Interface{{Mac: make([]byte, 6), In4: 255}}}},
		"set.interfaces[0].rp_filter: 3, expected at most 2":        {Set: &Entries{Interfaces: []*Interface{{Mac: make([]byte, 6), RpFilter: 3}}}},
		"set.neighbors[0].key.addr: 0 bytes, expected 4 or 16":      {Set: &Entries{Neighbors: []*Neighbor{{}}}},
		"set.neighbors[0].key.addr: 5 bytes, expected 4 or 16":      {Set: &Entries{Neighbors: []*Neighbor{{Key: &NeighborKey{Addr: make([]byte, 5)}}}}},
		"set.next_hops[0].gateway: 3 bytes, expected none, 4 or 16": {Set: &Entries{NextHops: []*NextHop{{Gateway: make([]byte, 3)}}}},
		"set.routes[1].key.prefix: missing":                         {Set: &Entries{Routes: []*Route{{Key: key}, {}}}},
		"set.routes[0].key.prefix.bits: 33, expected at most 32":    {Set: &Entries{Routes: []*Route{{Key: &RouteKey{Prefix: &Prefix{Addr: four, Bits: 33}}}}}},
		"set.routes[0].key.prefix: 10.0.0.0/4 has bits set":         {Set: &Entries{Routes: []*Route{{Key: &RouteKey{Prefix: &Prefix{Addr: four, Bits: 4}}}}}},
		"set.routes[0].action: 4, expected at most 3":               {Set: &Entries{Routes: []*Route{{Key: key, Action: 4}}}},
		"set.rules[0].family: 5, expected 4 or 6":                   {Set: &Entries{Rules: []*Rules{{Family: 5}}}},
		"set.rules[0].list[0].action: 9, expected at most 3":        {Set: &Entries{Rules: []*Rules{{Family: 4, List: []*Rule{{Action: 9}}}}}},
		"set.rules[0].list[0].from.addr: 1 bytes, expected 4 or 16": {Set: &Entries{Rules: []*Rules{{Family: 4, List: []*Rule{{From: &Prefix{Addr: []byte{1}}}}}}}},
		"set.settings.hash_policy4: 256, expected at most 255":      {Set: &Entries{Settings: &Settings{HashPolicy4: 256}}},
		"set.own[0].addr: 1 bytes, expected 4 or 16":                {Set: &Entries{Own: [][]byte{{1}}}},
		"delete.neighbors[0].addr: 0 bytes, expected 4 or 16":       {Delete: &Keys{Neighbors: []*NeighborKey{{}}}},
		"delete.routes[0].prefix.addr: 0 bytes, expected 4 or 16":   {Delete: &Keys{Routes: []*RouteKey{{Prefix: &Prefix{}}}}},
	} {
		stream, err := raw.Apply(t.Context())
		check(t, err)
		check(t, stream.Send(b))
		_, err = stream.Recv()
		if status.Code(err) != codes.InvalidArgument || !strings.HasPrefix(status.Convert(err).Message(), says) {
			t.Errorf("error %v, expected InvalidArgument %q", err, says)
		}
	}
	if _, err := raw.Trace(t.Context(), &TraceRequest{In: 1 << 16}); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "in: 65536") {
		t.Errorf("error %v", err)
	}
	if len(device.applied) != 0 {
		t.Error("applied")
	}
}

func TestClientRefusesWhatCannotTravel(t *testing.T) {
	device := &played{}
	url := newURL(t)
	serve(t, url, device)
	c := client(t, url)
	for says, e := range map[string]hwmodel.Entries{
		"set.own[0].addr: address fe80::1%eth0 has a zone": {Own: []hwmodel.OwnAddress{{Addr: netip.MustParseAddr("fe80::1%eth0")}}},
		"set.rules[0].list[0].to: invalid prefix":          {Rules: []hwmodel.Rules{{Family: 4, List: []hwmodel.Rule{{To: netip.PrefixFrom(netip.MustParseAddr("10.0.0.0"), 99)}}}}},
	} {
		if _, err := c.Apply(t.Context(), &hwmodel.Batch{Set: e}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("error %v, expected one with %q", err, says)
		}
	}
}

func TestUnavailable(t *testing.T) {
	device := &played{capabilities: hwmodel.Capabilities{Name: "x"}}
	url := newURL(t)
	c := client(t, url)
	if _, err := c.Capabilities(t.Context()); !errors.Is(err, hwmodel.ErrUnavailable) {
		t.Errorf("nobody there: %v", err)
	}
	stop := serve(t, url, device)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for { // it comes back by itself
		_, err := c.Capabilities(ctx)
		if err == nil {
			break
		}
		if !errors.Is(err, hwmodel.ErrUnavailable) {
			t.Fatal(err)
		}
	}
	device.err = hwmodel.ErrUnavailable
	if _, err := c.Apply(ctx, &hwmodel.Batch{}); !errors.Is(err, hwmodel.ErrUnavailable) {
		t.Errorf("device says so: %v", err)
	}
	device.err = errors.New("broken")
	if _, err := c.Counters(ctx, 0); errors.Is(err, hwmodel.ErrUnavailable) || err == nil || !strings.Contains(err.Error(), "broken") {
		t.Errorf("device broken: %v", err)
	}
	stop()
	for name, call := range map[string]func() error{
		"apply":    func() error { _, err := c.Apply(ctx, &hwmodel.Batch{}); return err },
		"entries":  func() error { return c.Entries(ctx, func(*hwmodel.Entries) bool { return true }) },
		"counters": func() error { _, err := c.Counters(ctx, 0); return err },
		"trace":    func() error { _, err := c.Trace(ctx, 1, nil); return err },
	} {
		if err := call(); !errors.Is(err, hwmodel.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Capabilities(gone); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestListen(t *testing.T) {
	url := newURL(t)
	path, _ := socketPath(url)
	first, err := Listen(url)
	check(t, err)
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o660 {
		t.Errorf("socket %v (%v)", st.Mode(), err)
	}
	if _, err := Listen(url); err == nil || !strings.Contains(err.Error(), "somebody listens there already") {
		t.Errorf("error %v", err)
	}
	first.(*net.UnixListener).SetUnlinkOnClose(false)
	check(t, first.Close())
	second, err := Listen(url) // the first left its socket
	check(t, err)
	check(t, second.Close())
	check(t, os.WriteFile(path, []byte("x"), 0o600))
	if _, err := Listen(url); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("error %v", err)
	}
	for _, bad := range []string{"", "device.sock", "unix://", "tcp://127.0.0.1:1"} {
		if _, err := Listen(bad); err == nil {
			t.Errorf("URL %q taken", bad)
		}
		if _, err := NewClient(bad); err == nil {
			t.Errorf("URL %q taken", bad)
		}
	}
}

// Whatever bytes arrive as a batch: an error or a batch, never a panic; and what
// is understood is written and read back equal.
func FuzzBatch(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 1))
	for range 4 {
		b := filled[hwmodel.Batch](r)
		var c codec
		f.Add(marshal(f, &Batch{Set: putEntries(&c, &b.Set), Delete: putKeys(&c, &b.Delete)}))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		b, ok := unmarshal(data)
		if !ok {
			return
		}
		var c codec
		again := batch(&c, &Batch{Set: putEntries(&c, &b.Set), Delete: putKeys(&c, &b.Delete)})
		if c.err != nil {
			t.Fatal(c.err)
		}
		same(t, "batch", again, b)
	})
}
