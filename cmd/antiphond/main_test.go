package main

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"antiphon/transport"
)

func TestUsage(t *testing.T) {
	for _, args := range [][]string{
		{"--colour"}, {"now"}, {"--grace", "soon"}, {"--grace", "0s"}, {"--log-level", "loud"}, {},
		{"--state", "x", "--listen", "tcp://192.0.2.1:7440"}, {"--state", "x", "--listen", "nonsense"}, {"--state", "x", "--device", "tcp://127.0.0.1:1"},
	} {
		if code := run(t.Context(), args); code != transport.ExitUsage {
			t.Errorf("antiphond %q: exit %d, want %d", args, code, transport.ExitUsage)
		}
	}
}

// TestServesAndStops: it answers before there is a device or a shim, and the end
// of its context is a clean stop that leaves no socket behind.
func TestServesAndStops(t *testing.T) {
	state, err := os.MkdirTemp("", "apd") // a short path: sockets take 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(state)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	exit := make(chan int, 1)
	go func() { exit <- run(ctx, []string{"--state", state, "--log-level", "error"}) }()
	socket := filepath.Join(state, "agent.sock")
	deadline, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	for {
		body, code, err := transport.Call(deadline, socket, transport.VerbStatus, nil)
		if code == transport.ExitNegative && len(body) > 0 {
			break // it answers: unhealthy, of course
		}
		if deadline.Err() != nil {
			t.Fatalf("status: exit %d, %v", code, err)
		}
	}
	if _, code, err := transport.Call(deadline, socket, transport.VerbCounters, nil); code != transport.ExitUnreachable || err == nil {
		t.Errorf("counters without a device: exit %d, %v", code, err)
	}
	cancel()
	if code := <-exit; code != transport.ExitOK {
		t.Errorf("exit %d after a clean stop", code)
	}
	if left, err := os.ReadDir(state); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}
