package truth

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"antiphon/agent"
	"antiphon/agent/api"
	"antiphon/agent/replica"
	"antiphon/hostshim"
	"antiphon/hwmodel"
	"antiphon/hwmodel/softpipe"
	"antiphon/internal/netnstest"
	"antiphon/transport"
)

const (
	// ports is how many the device has. The last one is the control: no test
	// touches it, so what forwards by it must go on forwarding.
	ports   = 5
	control = ports
	// patience ends what would hang; a busy machine never takes that long.
	patience = 60 * time.Second
	// restless is how often a comparison may find that the kernel has moved
	// meanwhile: timers and namespace cleanup end some time.
	restless = 200
)

// world is a kernel and the product beside it.
type world struct {
	ns, wire *netnstest.NS
	agent    *agent.Agent
	verbs    *api.Verbs
	pipe     *recorder
	gate     *gate
	again    int // comparisons repeated because the kernel had moved
}

// options of a world.
type options struct {
	blind      bool // no predictions
	liveBuffer int
}

// newWorld makes a namespace with ports swp1… to a wire namespace's w1…, and
// starts shim, agent and device; they stop with the test.
func newWorld(t *testing.T, opt options) *world {
	t.Helper()
	w := &world{ns: netnstest.New(t), wire: netnstest.New(t)}
	w.ns.Router(t)
	w.wire.Silent(t)
	infos := make([]hwmodel.PortInfo, ports)
	for i := range infos {
		infos[i] = hwmodel.PortInfo{ID: hwmodel.PortID(i + 1), Name: fmt.Sprintf("swp%d", i+1)}
		for _, l := range w.portLines(i + 1) {
			w.ns.IP(t, l)
		}
		w.wire.IP(t, fmt.Sprintf("link set w%d up", i+1))
	}
	w.pipe = &recorder{Device: softpipe.New(softpipe.Options{Ports: infos})}
	log := zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.ErrorLevel)
	w.agent = agent.New(agent.Config{Log: log, Device: w.pipe, Predict: !opt.blind, AuditInterval: -1})
	w.verbs = api.New(w.agent)
	w.gate = newGate(w.agent)

	// The socket's path must be short, which t.TempDir is not.
	dir, err := os.MkdirTemp("", "truth")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	url := "unix://" + filepath.Join(dir, "session.sock")
	listener, err := transport.Listen(url)
	if err != nil {
		t.Fatal(err)
	}
	srv := transport.NewServer()
	transport.RegisterAgentServer(srv, w.gate)
	shim := hostshim.New(hostshim.Options{Agent: url, Netns: w.ns.Name(), LiveBuffer: opt.liveBuffer, Log: log})
	ctx, cancel := context.WithCancel(context.Background())
	parts := []func() error{
		func() error { return shim.Run(ctx) },
		func() error { return w.agent.Run(ctx, w.verbs.Call) },
		func() error { return srv.Serve(listener) },
	}
	done := make(chan error, len(parts))
	for _, run := range parts {
		go func() { done <- run() }()
	}
	t.Cleanup(func() {
		cancel()
		srv.Stop()
		for range parts {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
	return w
}

// portLines make a port, its cable and its first addresses anew.
func (w *world) portLines(port int) []string {
	return []string{
		fmt.Sprintf("link add swp%d address 02:00:00:00:01:%02x type veth peer name w%d netns %s", port, port, port, w.wire.Name()),
		fmt.Sprintf("link property add dev swp%d altname antiphon-swp%d", port, port),
		fmt.Sprintf("link set swp%d up", port),
		fmt.Sprintf("addr add 10.%d.0.1/24 dev swp%d", port, port),
		fmt.Sprintf("addr add fd0%d::1/64 dev swp%d nodad", port, port),
	}
}

// call asks the product as the CLI does.
func (w *world) call(verb string, args, answer any) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	raw, err := json.Marshal(args)
	if err != nil {
		return err
	}
	body, exit, err := w.verbs.Call(ctx, verb, raw)
	if answer != nil && len(body) > 0 {
		if err := json.Unmarshal(body, answer); err != nil {
			return fmt.Errorf("%s: %w: %.200s", verb, err, body)
		}
	}
	if err == nil && exit != 0 {
		err = fmt.Errorf("%s: exit %d", verb, exit)
	}
	return err
}

func (w *world) barrier(audit bool) error {
	return w.call(transport.VerbBarrier, transport.BarrierArgs{Audit: audit, TimeoutMS: uint32(patience.Milliseconds())}, nil)
}

// productSays asks `show` for everything.
func (w *world) productSays() (snapshot, error) {
	s := snapshot{}
	for kind, args := range map[string]transport.ShowArgs{
		links: {Kind: "link"}, addresses: {Kind: "address"}, neighbors: {Kind: "neighbor"},
		proxies: {Kind: "neighbor", Filter: []string{"proxy"}}, nexthops: {Kind: "nexthop"},
		rules4: {Kind: "rule", Family: 2}, rules6: {Kind: "rule", Family: 10},
		routes4: {Kind: "route", Filter: []string{"table", "all"}, Family: 2},
		routes6: {Kind: "route", Filter: []string{"table", "all"}, Family: 10},
	} {
		var list []object
		if err := w.call(transport.VerbShow, args, &list); err != nil {
			return nil, fmt.Errorf("show %s: %w", kind, err)
		}
		for _, o := range list {
			for _, ours := range []string{"fate", "reason", "detail", "packets", "bytes", "seq"} {
				delete(o, ours)
			}
		}
		s[kind] = list
	}
	return s, nil
}

// flush makes the kernel's deferred work on carriers happen: a question for one
// link does.
func (w *world) flush() error {
	var inside, outside []string
	for _, name := range deviceNames() {
		inside = append(inside, "link show dev "+name)
	}
	for i := range ports {
		outside = append(outside, fmt.Sprintf("link show dev w%d", i+1))
	}
	if _, _, _, err := ipBatch(w.wire, outside); err != nil {
		return err
	}
	_, _, _, err := ipBatch(w.ns, inside)
	return err
}

// settled waits with a barrier and requires that the product says what the kernel
// says, doubts nothing and forwards nothing else. The kernel is asked before and
// after: only while it stands still is there one truth.
func (w *world) settled(t *testing.T, after string) snapshot {
	t.Helper()
	for range restless {
		if err := w.flush(); err != nil {
			t.Fatal(err)
		}
		before, err := kernelSays(w.ns)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.barrier(false); err != nil {
			t.Fatalf("%s: barrier: %v", after, err)
		}
		product, err := w.productSays()
		if err != nil {
			t.Fatalf("%s: %v", after, err)
		}
		status := w.status(t)
		held, err := w.held()
		if err != nil {
			t.Fatal(err)
		}
		now, err := kernelSays(w.ns)
		if err != nil {
			t.Fatal(err)
		}
		if len(difference(before.lines(), now.lines())) > 0 {
			w.again++
			continue
		}
		for _, d := range difference(now.lines(), product.lines()) {
			t.Errorf("%s: %s", after, d)
		}
		if status.Suspects > 0 || !status.InSync {
			t.Errorf("%s: after a barrier %d rows are suspect, pending: %q", after, status.Suspects, status.Pending)
		}
		if status.NotResolved > 0 {
			t.Errorf("%s: %d rows were not understood", after, status.NotResolved)
		}
		for _, g := range ghosts(held, now) {
			t.Errorf("%s: %s", after, g)
		}
		return now
	}
	t.Fatalf("%s: the kernel never stood still", after)
	return nil
}

// verified requires that verify finds no difference.
func (w *world) verified(t *testing.T, after string) {
	t.Helper()
	var a api.VerifyAnswer
	err := w.call(transport.VerbVerify, transport.VerifyArgs{}, &a)
	for _, d := range a.Differences {
		t.Errorf("%s: verify: %+v", after, d)
	}
	if err != nil {
		t.Errorf("%s: verify: %v", after, err)
	}
}

func (w *world) status(t *testing.T) (s agent.Status) {
	t.Helper()
	w.view(t, func(v agent.View) { s = v.Status() })
	return s
}

func (w *world) stats(t *testing.T) (s replica.Stats) {
	t.Helper()
	w.view(t, func(v agent.View) { s = v.Mirror() })
	return s
}

func (w *world) view(t *testing.T, f func(agent.View)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := w.agent.View(ctx, f); err != nil {
		t.Fatal(err)
	}
}

// sysctl writes a setting of the namespace and says whether the kernel took it.
func (w *world) sysctl(key, value string) error {
	return w.ns.Do(func() error { return os.WriteFile("/proc/sys/"+key, []byte(value), 0) })
}

// trace asks the device what it does with a packet from the wire of a port.
func (w *world) trace(t *testing.T, in hwmodel.PortID, dst string) hwmodel.TraceResult {
	t.Helper()
	frame := ipv4Frame([6]byte{2, 0, 0, 0, 1, byte(in)}, fmt.Sprintf("10.%d.0.2", in), dst)
	r, err := w.pipe.Trace(context.Background(), in, bytes.Clone(frame))
	if err != nil {
		t.Fatal(err)
	}
	return r
}
