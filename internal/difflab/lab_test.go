package difflab

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"antiphon/agent/resolve"
	"antiphon/hwmodel"
	"antiphon/hwmodel/refpipe"
	"antiphon/hwmodel/softpipe"
	"antiphon/internal/netnstest"
)

// system is a router under test with its wires.
type system struct {
	dut    *netnstest.NS
	cables []netnstest.Cable
	// seen captures what arrives at each port of the router: in the device
	// system those are exactly the trapped frames.
	seen []*netnstest.Wire
}

func swp(n int) string { return fmt.Sprintf("swp%d", n) }

// kernelSystem is a plain kernel router on veth cables.
func kernelSystem(t *testing.T) *system {
	s := &system{dut: netnstest.New(t)}
	out := netnstest.New(t)
	s.dut.Router(t)
	out.Silent(t)
	for n := 1; n <= ports; n++ {
		w := fmt.Sprintf("w%d", n)
		netnstest.Veth(t, netnstest.End{NS: out, Name: w, MAC: hostMAC(n), Bare: true},
			netnstest.End{NS: s.dut, Name: swp(n), MAC: portMAC(n)})
		s.dut.IP(t, fmt.Sprintf("link property add dev %s altname antiphon-%s", swp(n), swp(n)))
		s.open(t, out, w, swp(n))
	}
	return s
}

func (s *system) open(t testing.TB, out *netnstest.NS, w, port string) {
	c := netnstest.Cable{Wire: out.Wire(t, w), Port: s.dut.Wire(t, port)}
	c.Wire.Noise = netnstest.IsNoise
	s.cables = append(s.cables, c)
	s.seen = append(s.seen, s.dut.Wire(t, port))
}

// deviceSystem is the whole product: sim, device, agent and shim as processes.
func deviceSystem(t *testing.T, bin, pipe string) (*system, func(args ...string) string) {
	s := &system{dut: netnstest.New(t)}
	out := netnstest.New(t)
	s.dut.Router(t)
	out.Silent(t)
	state := filepath.Join(t.TempDir(), "state")
	run := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(filepath.Join(bin, "antiphon"), args...)
		cmd.Env = append(os.Environ(), "ANTIPHON_STATE="+state)
		b, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("antiphon %s: %v\n%s%s", strings.Join(args, " "), err, b, logs(state))
		}
		return string(b)
	}
	up := []string{"sim", "up", "--detach", "--netns", s.dut.Name(), "--wire-netns", out.Name(), "--pipe", pipe}
	for n := 1; n <= ports; n++ {
		up = append(up, "--port", fmt.Sprintf("%s=w%d", swp(n), n))
	}
	run(up...)
	t.Cleanup(func() { run("sim", "down") })
	for n := 1; n <= ports; n++ {
		w := fmt.Sprintf("w%d", n)
		s.dut.IP(t, fmt.Sprintf("link set dev %s address %s", swp(n), mac(portMAC(n))))
		out.IP(t, fmt.Sprintf("link set dev %s address %s", w, mac(hostMAC(n))))
		out.Sysctl(t, "net/ipv6/conf/"+w+"/disable_ipv6", "1")
		s.dut.IP(t, "link set dev "+swp(n)+" up")
		out.IP(t, "link set dev "+w+" up")
		s.open(t, out, w, swp(n))
	}
	run("barrier")
	return s, run
}

func mac(b []byte) string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3], b[4], b[5])
}

func logs(state string) string {
	var out strings.Builder
	for _, n := range []string{"sim", "device", "agent", "shim"} {
		if b, err := os.ReadFile(filepath.Join(state, n+".log")); err == nil {
			fmt.Fprintf(&out, "--- %s.log\n%s\n", n, b[max(0, len(b)-2000):])
		}
	}
	return out.String()
}

// configure runs a case's lines.
func (s *system) configure(t *testing.T, l *lab) {
	for _, line := range append(base(), l.lines...) {
		words := strings.Fields(line)
		if words[0] == "sysctl" {
			key, value, _ := strings.Cut(words[1], "=")
			s.dut.Sysctl(t, key, value)
			continue
		}
		s.dut.Run(t, words[0], words[1:]...)
	}
}

// outcome is what one frame led to.
type outcome struct {
	out     []string // "wN: hex", sorted and masked
	trapped bool     // the frame arrived unchanged at its port's representor
}

// send puts one frame on a wire and waits until the router is done with it.
func (s *system) send(t *testing.T, in int, frame []byte) outcome {
	for _, w := range s.seen {
		w.Drain(t)
	}
	s.cables[in-1].Wire.Send(t, frame)
	var o outcome
	for i, frames := range netnstest.Fence(t, s.cables...) {
		for _, f := range frames {
			o.out = append(o.out, fmt.Sprintf("w%d: %x", i+1, mask(f)))
		}
	}
	slices.Sort(o.out)
	for _, f := range s.seen[in-1].Drain(t) {
		o.trapped = o.trapped || bytes.Equal(f, frame)
	}
	return o
}

// mask blanks what the kernel itself is free to choose in frames it makes: the
// identification of ICMP errors (and the checksum over it), the flow label of
// ICMPv6 errors.
func mask(f []byte) []byte {
	f = slices.Clone(f)
	switch {
	case len(f) >= 34 && f[12] == 8 && f[13] == 0 && f[23] == 1:
		clear(f[18:20])
		clear(f[24:26])
	case len(f) >= 54 && f[12] == 0x86 && f[13] == 0xdd && f[20] == 58:
		f[15] &= 0xf0
		clear(f[16:18])
	}
	return f
}

// pipes builds both devices from the kernel router's own state.
func pipes(t *testing.T, dut *netnstest.NS) map[string]hwmodel.Pipe {
	out := map[string]hwmodel.Pipe{
		"refpipe":  refpipe.New(refpipe.Options{Ports: portInfo(ports)}),
		"softpipe": softpipe.New(softpipe.Options{Ports: portInfo(ports)}),
	}
	for name, p := range out {
		caps, err := p.Capabilities(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		r := resolve.New(caps)
		load(t, dut, r)
		for b := r.Next(); b != nil; b = r.Next() {
			res, err := p.Apply(context.Background(), b)
			if err != nil || len(res.Refused) != 0 {
				t.Fatalf("%s: %v, refused %+v", name, err, res.Refused)
			}
			r.Applied(res)
		}
	}
	return out
}

func portInfo(n int) (out []hwmodel.PortInfo) {
	for i := range n {
		out = append(out, hwmodel.PortInfo{ID: hwmodel.PortID(i + 1), Name: swp(i + 1)})
	}
	return out
}

// checkPipe holds a pipe's verdict on a frame against what the kernel did.
func checkPipe(t *testing.T, name string, p hwmodel.Pipe, s *step, frame []byte, kernel outcome) {
	t.Helper()
	var v hwmodel.Vector
	v.N, v.In[0], v.Frame[0] = 1, hwmodel.PortID(s.in), slices.Clone(frame)
	p.Run(&v)
	if v.Verdict[0] != s.want {
		tr, _ := p.Trace(context.Background(), hwmodel.PortID(s.in), frame)
		t.Errorf("%s: verdict %v (%v), the case says %v\ntrace %+v", name, v.Verdict[0], v.Reason[0], s.want, tr.Steps)
	}
	switch v.Verdict[0] {
	case hwmodel.Forward:
		got := []string{fmt.Sprintf("w%d: %x", v.Out[0], v.Frame[0])}
		if !slices.Equal(got, kernel.out) {
			t.Errorf("%s: forwards\n  %v, kernel\n  %v", name, got, kernel.out)
		}
	case hwmodel.Drop:
		if len(kernel.out) != 0 {
			t.Errorf("%s: drops, kernel sends %v", name, kernel.out)
		}
	case hwmodel.Trap:
		if !bytes.Equal(v.Frame[0], frame) {
			t.Errorf("%s: a trapped frame was changed", name)
		}
	}
}

// TestPipes: the kernel and both pipes, from the same kernel state.
func TestPipes(t *testing.T) {
	netnstest.Require(t)
	for i := range labs {
		l := &labs[i]
		t.Run(l.name, func(t *testing.T) {
			s := kernelSystem(t)
			s.configure(t, l)
			devices := pipes(t, s.dut)
			for j := range l.steps {
				st := &l.steps[j]
				frame := st.bytes()
				kernel := s.send(t, st.in, frame)
				if st.want == hwmodel.Forward && len(kernel.out) != 1 {
					t.Errorf("step %d %s→%s: the case says forward, the kernel sends %v", j, st.src, st.dst, kernel.out)
				}
				for name, p := range devices {
					t.Run(fmt.Sprintf("%s/%d", name, j), func(t *testing.T) { checkPipe(t, name, p, st, frame, kernel) })
				}
			}
		})
	}
}

// TestWholeRoad: the kernel and the whole product, traps included: every byte
// that leaves the one must leave the other.
func TestWholeRoad(t *testing.T) {
	netnstest.Require(t)
	bin := build(t)
	for i := range labs {
		l := &labs[i]
		t.Run(l.name, func(t *testing.T) {
			k := kernelSystem(t)
			k.configure(t, l)
			d, run := deviceSystem(t, bin, []string{"softpipe", "refpipe"}[i%2])
			d.configure(t, l)
			run("barrier")
			for j := range l.steps {
				st := &l.steps[j]
				frame := st.bytes()
				kernel, device := k.send(t, st.in, frame), d.send(t, st.in, frame)
				if !slices.Equal(kernel.out, device.out) {
					t.Errorf("step %d in swp%d %s→%s\n kernel %v\n device %v\n%s", j, st.in, st.src, st.dst, kernel.out, device.out, run("show", "counters", "-j"))
				}
				if device.trapped != (st.want == hwmodel.Trap) {
					t.Errorf("step %d in swp%d %s→%s: trapped %v, the case says %v", j, st.in, st.src, st.dst, device.trapped, st.want)
				}
			}
			run("verify")
		})
	}
}

// build makes the binaries of the product.
func build(t *testing.T) string {
	bin := t.TempDir()
	cmd := exec.Command("go", "build", "-o", bin, "antiphon/cmd/...")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return bin
}
