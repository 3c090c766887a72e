package sim

import (
	"strings"
	"testing"
)

func TestParsePort(t *testing.T) {
	for _, c := range []struct {
		in   string
		want Port
		bad  string
	}{
		{in: "swp1=w1", want: Port{Name: "swp1", Wire: "w1"}},
		{in: "swp1=@eth0", want: Port{Name: "swp1", Netdev: "eth0"}},
		{in: "swp1", bad: "want NAME=WIRE"},
		{in: "=w1", bad: "want NAME=WIRE"},
		{in: "swp1=@", bad: "no interface name"},
		{in: "swp1=a/b", bad: "contains '/'"},
		{in: "swp1=sixteen-bytes-xx", bad: "longer than 15"},
		{in: "sw%d=w1", bad: "contains '%'"},
	} {
		got, err := ParsePort(c.in)
		switch {
		case c.bad == "" && (err != nil || got != c.want):
			t.Errorf("%q: %+v, %v", c.in, got, err)
		case c.bad != "" && (err == nil || !strings.Contains(err.Error(), c.bad) || ExitStatus(err) != 2):
			t.Errorf("%q: error %v (exit %d), want %q and exit 2", c.in, err, ExitStatus(err), c.bad)
		}
	}
}

func TestCheck(t *testing.T) {
	port := []Port{{Name: "swp1", Wire: "w1"}}
	for _, c := range []struct {
		name string
		cfg  Config
		bad  string
	}{
		{"fine", Config{State: "/run/x", Ports: port, Transport: "unix"}, ""},
		{"no port", Config{State: "/run/x", Transport: "unix"}, "no port"},
		{"vsock", Config{State: "/run/x", Ports: port, Transport: "vsock"}, "vsock"},
		{"transport", Config{State: "/run/x", Ports: port, Transport: "pigeon"}, "pigeon"},
		{"relative", Config{State: "x", Ports: port, Transport: "unix"}, "absolute"},
		{"quoting", Config{State: "/run/x%41", Ports: port, Transport: "unix"}, "quoting"},
		{"too long", Config{State: "/run/" + strings.Repeat("x", 100), Ports: port, Transport: "unix"}, "too long"},
		{"twice", Config{State: "/run/x", Transport: "unix", Ports: []Port{{Name: "a", Wire: "b"}, {Name: "b", Wire: "c"}}}, "twice"},
		{"apart", Config{State: "/run/x", Transport: "unix", WireNetns: "w", Ports: []Port{{Name: "a", Wire: "b"}, {Name: "b", Wire: "c"}}}, ""},
		{"pipe", Config{State: "/run/x", Ports: port, Transport: "unix", Pipe: "lead"}, "lead"},
		{"size", Config{State: "/run/x", Ports: port, Transport: "unix", Sizes: []string{"route=10"}}, ""},
		{"size zero", Config{State: "/run/x", Ports: port, Transport: "unix", Sizes: []string{"route=0"}}, "TABLE=N"},
		{"size of what", Config{State: "/run/x", Ports: port, Transport: "unix", Sizes: []string{"tea=1"}}, "neighbor"},
		{"too many", Config{State: "/run/x", Transport: "unix", Ports: make([]Port, maxPorts+1)}, "at most 256"},
	} {
		err := c.cfg.Check()
		if c.bad == "" && err != nil || c.bad != "" && (err == nil || !strings.Contains(err.Error(), c.bad) || ExitStatus(err) != 2) {
			t.Errorf("%s: %v (exit %d), want %q", c.name, err, ExitStatus(err), c.bad)
		}
	}
}

func TestParseCable(t *testing.T) {
	two, err := ParseCable("swp3=swp4")
	if err != nil || two[0] != (Port{Name: "swp3", Peer: "swp4"}) || two[1] != (Port{Name: "swp4", Peer: "swp3"}) {
		t.Errorf("swp3=swp4: %+v, %v", two, err)
	}
	for _, s := range []string{"swp3", "swp3=swp3", "swp3=", "=swp4", "swp3=@eth0/"} {
		if _, err := ParseCable(s); ExitStatus(err) != 2 {
			t.Errorf("%q: %v, want exit 2", s, err)
		}
	}
}

func TestShellLine(t *testing.T) {
	got := shellLine([]string{"/bin/x", "--state", "/tmp/a b", "it's", ""})
	if want := `/bin/x --state '/tmp/a b' 'it'\''s' ''`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
