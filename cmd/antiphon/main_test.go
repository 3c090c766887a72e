package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"antiphon/agent"
	"antiphon/agent/agenttest"
	"antiphon/agent/api"
	"antiphon/hwmodel"
	"antiphon/hwmodel/refpipe"
	"antiphon/transport"
)

var update = flag.Bool("update", false, "write testdata anew")

// serve runs an agent with a reference device and a scripted host, and answers
// at NAME.sock of a new state directory.
func serve(t *testing.T, name string) (state string, host *agenttest.Host) {
	t.Helper()
	state, err := os.MkdirTemp("", "ap") // a short path: sockets take 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(state) })
	var sizes [hwmodel.TableCount]uint32
	for i := range sizes {
		sizes[i] = 1000
	}
	pipe := refpipe.New(refpipe.Options{Ports: []hwmodel.PortInfo{{ID: 1, Name: "swp1"}, {ID: 2, Name: "swp2"}}, Sizes: sizes})
	a := agent.New(agent.Config{Log: zerolog.Nop(), Device: pipe, AuditInterval: -1})
	verbs := api.New(a)
	ctx, cancel := context.WithCancel(context.Background())
	sessions, control := transport.NewServer(), transport.NewServer()
	transport.RegisterAgentServer(sessions, a)
	transport.ServeControl(control, verbs.Call)
	listener := transport.NewPipe()
	socket, err := transport.Listen("unix://" + filepath.Join(state, name+".sock"))
	if err != nil {
		t.Fatal(err)
	}
	go sessions.Serve(listener) // both end with Stop
	go control.Serve(socket)
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx, verbs.Call) }()
	conn, err := listener.Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		sessions.Stop()
		control.Stop()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	if host, err = agenttest.Connect(ctx, conn, agenttest.Hello(), agenttest.Hold{}, agenttest.Router()); err != nil {
		t.Fatal(err)
	}
	if code, _, problem := antiphon(t, "--state", state, "barrier"); code != 0 {
		t.Fatalf("barrier: exit %d: %s", code, problem)
	}
	return state, host
}

// antiphon runs the command line.
func antiphon(t *testing.T, args ...string) (code int, out, errOut string) {
	t.Helper()
	var o, e bytes.Buffer
	code = run(t.Context(), args, &o, &e)
	return code, o.String(), e.String()
}

// volatile is what differs from run to run.
var volatile = regexp.MustCompile(`(\d+\.\d+s|"(last_change_seconds|seconds)":[0-9.e+-]+|amd64|arm64|"batches":\d+|batches \d+` +
	`|\bseq \d+|sequence number \d+|"seq":\d+|"?programmed"?[: ]\d+)`)

// TestGolden runs the command lines of testdata/*.txt and compares exit status,
// stdout and stderr.
func TestGolden(t *testing.T) {
	state, host := serve(t, "agent")
	host.Presences(&transport.Presence{What: "tc", Ifindex: 2, Ingress: true, Detail: "qdisc clsact on swp1"})
	if code, _, problem := antiphon(t, "--state", state, "barrier"); code != 0 {
		t.Fatalf("barrier: exit %d: %s", code, problem)
	}
	for name, lines := range map[string][]string{
		"show": {"show link", "show addr", "show neigh -s", "show rule", "show route", "show route 10.9.0.0/16 -s", "show route table local",
			"show nexthop", "show counters"},
		"show-json": {"show link swp1 -j", "show addr dev swp1 -j", "show neigh -j", "show rule -j", "show route -j 10.9.0.0/16", "show counters -j"},
		"why": {"why 10.9.0.0/16", "why 10.0.2.2 dev swp2", "why swp1", "why 10.0.1.1", "why --refused", "why 192.0.2.0/24", "why -j 192.0.2.0/24",
			"why -j 10.9.0.0/16", "why rule 32766"},
		"status": {"status", "status -j"},
		"verify": {"verify", "verify -j", "barrier -j", "barrier --audit"},
		"trace": {"trace in swp1 ip src 10.0.1.9 dst 10.9.3.4 proto tcp dport 443", "trace in swp2 ip src 10.0.2.2 dst 10.0.1.1 -j",
			"trace in swp2 src 10.0.2.2 dst 10.9.0.1 ttl 1"},
		"usage": {"", "shout", "shout -j", "show", "show cow", "show -4 -6 route", "show counters swp1", "show route --colour", "show route table many",
			"show route dev", "why", "why --refused swp1", "why 10.0.0.1/8 table main", "barrier now", "barrier --timeout soon", "barrier --timeout=-1s",
			"barrier --timeout -1s -j", "trace", "trace in swp1", "trace in swp9 src 10.0.0.1 dst 10.0.0.2", "trace in swp1 src 10.0.0.1 dst ::1",
			"trace in swp1 ip6 src 10.0.0.1 dst 10.0.0.2", "trace in swp1 src 10.0.0.1 dst 10.0.0.2 proto icmp dport 1", "trace in swp1 via x"},
	} {
		t.Run(name, func(t *testing.T) {
			var got strings.Builder
			for _, line := range lines {
				code, out, errOut := antiphon(t, append([]string{"--state", state}, strings.Fields(line)...)...)
				if strings.Contains(line, "-j") && !json.Valid([]byte(out)) {
					t.Errorf("%s: not one JSON document: %s", line, out)
				}
				fmt.Fprintf(&got, "$ antiphon %s\n%s%s[%d]\n\n", line, out, errOut, code)
			}
			text := volatile.ReplaceAllString(strings.ReplaceAll(got.String(), state, "STATE"), "…")
			path := filepath.Join("testdata", name+".txt")
			if *update {
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if text != string(want) {
				t.Errorf("differs from %s (-update writes it anew):\n%s", path, text)
			}
		})
	}
}

func TestExitStatus(t *testing.T) {
	empty := t.TempDir()
	state, host := serve(t, "shim") // the CLI at the host asks the shim's socket
	stale := t.TempDir()
	if err := os.WriteFile(filepath.Join(stale, "agent.sock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		exit int
		args []string
		says string
	}{
		{0, []string{"--state", state, "show", "link"}, ""},
		{0, []string{"version"}, ""},
		{0, []string{"--help"}, ""},
		{2, []string{"--state"}, "needs an argument"},
		{3, []string{"--state", empty, "barrier"}, filepath.Join(empty, "agent.sock")},
		{3, []string{"--state", empty, "-j", "status"}, filepath.Join(empty, "shim.sock")},
		{3, []string{"--state", stale, "show", "route"}, filepath.Join(stale, "agent.sock")},
		{2, []string{"--state", empty, "show", "cow"}, "unknown kind"},
		{1, []string{"--state", state, "why", "192.0.2.1/32"}, "the kernel has no"},
	} {
		code, out, errOut := antiphon(t, c.args...)
		if code != c.exit || !strings.Contains(out+errOut, c.says) {
			t.Errorf("antiphon %s: exit %d, want %d and %q: %s%s", strings.Join(c.args, " "), code, c.exit, c.says, out, errOut)
		}
	}
	t.Setenv("ANTIPHON_STATE", state)
	if code, _, errOut := antiphon(t, "show", "route"); code != 0 {
		t.Errorf("ANTIPHON_STATE: exit %d: %s", code, errOut)
	}

	host.Hold(agenttest.Hold{Markers: true})
	code, out, _ := antiphon(t, "--state", state, "barrier", "--timeout", "50ms", "-j")
	var doc struct {
		OK      bool
		Pending []string
		Error   string
		Exit    int
	}
	if err := json.Unmarshal([]byte(out), &doc); err != nil || code != 1 || doc.Exit != 1 || doc.OK || len(doc.Pending) == 0 || !strings.Contains(doc.Error, "marker") {
		t.Errorf("barrier that times out: exit %d %v: %s", code, err, out)
	}
}
