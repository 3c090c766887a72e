package main

import "testing"

func TestExitStatus(t *testing.T) {
	for _, c := range []struct {
		args []string
		want int
	}{
		{nil, exitUsage},
		{[]string{"--help"}, 0},
		{[]string{"--bogus"}, exitUsage},
		{[]string{"--agent", "unix:///a"}, exitUsage},
		{[]string{"--agent", "tcp://192.0.2.1:1", "--api", "/s"}, exitUsage},
		{[]string{"--agent", "unix:///a", "--api", "/s", "--log-level", "loud"}, exitUsage},
		{[]string{"--agent", "unix:///a", "--api", "/s", "extra"}, exitUsage},
		{[]string{"--agent", "unix:///a", "--api", "/s", "--netns", "antiphon-nowhere"}, exitNamespace},
	} {
		if got := run(t.Context(), c.args); got != c.want {
			t.Errorf("%v: exit %d, want %d", c.args, got, c.want)
		}
	}
}
