package transport_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"antiphon/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo answers a Hello with a Welcome and every block with a credit of its size.
type echo struct {
	transport.UnimplementedAgentServer
}

func (echo) Session(s grpc.BidiStreamingServer[transport.FromShim, transport.FromAgent]) error {
	h, err := transport.ReceiveHello(s)
	if err != nil {
		return err
	}
	err = s.Send(&transport.FromAgent{Msg: &transport.FromAgent_Welcome{Welcome: &transport.Welcome{Version: h.GetVersionMax(), Epoch: h.GetTicket()}}})
	for err == nil {
		var m *transport.FromShim
		if m, err = s.Recv(); err == nil {
			err = s.Send(&transport.FromAgent{Msg: &transport.FromAgent_Credit{Credit: &transport.Credit{Bytes: uint32(len(m.GetBlock().GetBytes()))}}})
		}
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func control(_ context.Context, verb string, args []byte) ([]byte, int, error) {
	switch verb {
	case transport.VerbBarrier:
		var a transport.BarrierArgs
		if err := json.Unmarshal(args, &a); err != nil {
			return nil, transport.ExitUsage, err
		}
		return fmt.Appendf(nil, `{"timeout":%d}`, a.TimeoutMS), 0, nil
	case transport.VerbShow:
		return bytes.Repeat([]byte(" "), 8<<20), 0, nil
	}
	return nil, 0, fmt.Errorf("no verb %q", verb)
}

// serve runs both services on l until the test ends.
func serve(t *testing.T, l net.Listener) {
	t.Helper()
	srv := transport.NewServer()
	transport.RegisterAgentServer(srv, echo{})
	transport.ServeControl(srv, control)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func listen(t *testing.T, url string) net.Listener {
	t.Helper()
	l, err := transport.Listen(url)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestConformance runs one session and the control verbs over every road.
func TestConformance(t *testing.T) {
	roads := map[string]func(t *testing.T) *grpc.ClientConn{
		"unix": func(t *testing.T) *grpc.ClientConn {
			return dial(t, listen(t, "unix://"+filepath.Join(t.TempDir(), "s")))
		},
		"tcp": func(t *testing.T) *grpc.ClientConn { return dial(t, listen(t, "tcp://127.0.0.1:0")) },
		"pipe": func(t *testing.T) *grpc.ClientConn {
			p := transport.NewPipe()
			serve(t, p)
			c, err := p.Connect()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			return c
		},
	}
	for name, road := range roads {
		t.Run(name, func(t *testing.T) {
			conn := road(t)
			t.Run("session", func(t *testing.T) { session(t, conn) })
			t.Run("control", func(t *testing.T) { controls(t, conn) })
		})
	}
}

func dial(t *testing.T, l net.Listener) *grpc.ClientConn {
	t.Helper()
	serve(t, l)
	c, err := transport.Dial(transport.URL(l))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func session(t *testing.T, conn *grpc.ClientConn) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s, err := transport.NewAgentClient(conn).Session(ctx)
	if err != nil {
		t.Fatal(err)
	}
	send := func(m *transport.FromShim) *transport.FromAgent {
		if err := s.Send(m); err != nil {
			t.Fatal(err)
		}
		r, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	r := send(&transport.FromShim{Msg: &transport.FromShim_Hello{Hello: &transport.Hello{VersionMax: transport.Version, Ticket: 7}}})
	if w := r.GetWelcome(); w.GetEpoch() != 7 || w.GetVersion() != transport.Version {
		t.Fatalf("welcome %v", r)
	}
	for _, n := range []int{0, 1, transport.MaxBlock} {
		r := send(&transport.FromShim{Seq: 1, Msg: &transport.FromShim_Block{Block: &transport.Block{Bytes: make([]byte, n)}}})
		if got := r.GetCredit().GetBytes(); int(got) != n {
			t.Fatalf("credit %d, want %d", got, n)
		}
	}
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); !errors.Is(err, io.EOF) {
		t.Fatalf("end of session: %v", err)
	}
	// A peer that does not begin with Hello, and one that sends too much, lose
	// their session and nothing else.
	for _, bad := range []*transport.FromShim{
		{Msg: &transport.FromShim_Marker{Marker: &transport.Marker{Id: 1}}},
		{Msg: &transport.FromShim_Block{Block: &transport.Block{Bytes: make([]byte, transport.MaxMessage+1)}}},
	} {
		s, err := transport.NewAgentClient(conn).Session(ctx, grpc.MaxCallSendMsgSize(64<<20))
		if err != nil {
			t.Fatal(err)
		}
		s.Send(bad)
		if _, err := s.Recv(); err == nil {
			t.Fatal("a bad first message was accepted")
		}
	}
}

func controls(t *testing.T, conn *grpc.ClientConn) {
	body, exit, err := transport.CallOn(t.Context(), conn, transport.VerbBarrier, transport.BarrierArgs{TimeoutMS: 5})
	if string(body) != `{"timeout":5}` || exit != 0 || err != nil {
		t.Errorf("barrier: %q %d %v", body, exit, err)
	}
	if body, exit, err = transport.CallOn(t.Context(), conn, transport.VerbShow, nil); len(body) != 8<<20 || exit != 0 || err != nil {
		t.Errorf("show: %d bytes, %d %v", len(body), exit, err)
	}
	if _, exit, err = transport.CallOn(t.Context(), conn, "dance", nil); exit != transport.ExitNegative || err == nil || err.Error() != `no verb "dance"` {
		t.Errorf("unknown verb: %d %v", exit, err)
	}
	if _, exit, err = transport.CallOn(t.Context(), conn, transport.VerbBarrier, "five"); exit != transport.ExitUsage || err == nil {
		t.Errorf("bad arguments: %d %v", exit, err)
	}
	big := transport.WhyArgs{Object: []string{strings.Repeat("x", transport.MaxControlArgs)}}
	if _, exit, err = transport.CallOn(t.Context(), conn, transport.VerbWhy, big); exit != transport.ExitUsage || err == nil {
		t.Errorf("long arguments: %d %v", exit, err)
	}
}

func TestUnreachable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "nobody")
	if _, exit, err := transport.Call(t.Context(), path, transport.VerbStatus, nil); exit != transport.ExitUnreachable || err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("exit %d, %v", exit, err)
	}
}

func TestSocketFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l := listen(t, "unix://"+path)
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o660 {
		t.Fatalf("%v %v", st.Mode(), err)
	}
	if _, err := transport.Listen("unix://" + path); err == nil {
		t.Fatal("took a socket that somebody listens on")
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // as kill -9 does
	l.Close()
	listen(t, "unix://"+path).Close()
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Fatalf("socket left behind: %v", err)
	}
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := transport.Listen("unix://" + path); err == nil {
		t.Fatal("replaced a regular file")
	}
}

func TestAddresses(t *testing.T) {
	for url, want := range map[string]string{
		"unix:relative":                       "absolute path",
		"unix://host/path":                    "absolute path",
		"unix:///" + strings.Repeat("x", 108): "bytes",
		"tcp://10.0.0.1:7440":                 "loopback only",
		"tcp://[::]:7440":                     "loopback only",
		"tcp://agent:7440":                    "not an IP address",
		"tcp://127.0.0.1":                     "port",
		"tcp://127.0.0.1:99999":               "port",
		"vsock://2:7440":                      "not supported yet",
		"http://127.0.0.1:1":                  "want unix",
		"":                                    "want unix",
		"tcp://127.0.0.1:1%zz":                "address",
	} {
		if _, err := transport.Dial(url); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Dial(%q): %v, want %q", url, err, want)
		}
		if _, err := transport.Listen(url); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Listen(%q): %v, want %q", url, err, want)
		}
	}
	for _, url := range []string{"tcp://[::1]:7440", "tcp://localhost:7440", "unix:///run/x"} {
		c, err := transport.Dial(url)
		if err != nil {
			t.Errorf("Dial(%q): %v", url, err)
			continue
		}
		c.Close()
	}
}
