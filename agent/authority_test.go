package agent

import (
	"fmt"
	"testing"

	"antiphon/transport"
)

func TestAuthority(t *testing.T) {
	hello := func(boot string, ticket, connection uint64) *transport.Hello {
		return &transport.Hello{VersionMin: 1, VersionMax: 3, BootId: boot, Ticket: ticket, Connection: connection}
	}
	var a authority
	for i, step := range []struct {
		hello *transport.Hello
		good  bool
	}{
		{hello("a", 5, 1), true},
		{hello("a", 5, 1), false}, // the same once more
		{hello("a", 5, 2), true},  // a new connection
		{hello("a", 4, 9), false}, // an older process
		{hello("a", 6, 1), true},  // a newer process
		{hello("b", 1, 1), true},  // the host came back
		{hello("a", 9, 9), false}, // from before it went
		{hello("", 9, 9), false},
		{&transport.Hello{VersionMin: 2, VersionMax: 3, BootId: "b", Ticket: 9}, false},
	} {
		if err := a.admit(step.hello); (err == nil) != step.good {
			t.Errorf("step %d: %v", i, err)
		}
	}
	for i := range 3 * maxSuperseded {
		if err := a.admit(hello(fmt.Sprint("boot", i), 1, 1)); err != nil {
			t.Fatal(err)
		}
	}
	if len(a.superseded) != maxSuperseded {
		t.Errorf("%d boot ids are remembered, want %d", len(a.superseded), maxSuperseded)
	}
}
