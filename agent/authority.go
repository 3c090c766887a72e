package agent

import (
	"fmt"
	"slices"

	"antiphon/transport"
)

// maxSuperseded bounds the remembered boot ids of hosts that came back.
const maxSuperseded = 64

// authority decides which shim may speak: the order is (boot id, ticket,
// connection number). Boot ids have no order, so those that were superseded are
// remembered and refused.
type authority struct {
	held       *transport.Hello
	superseded []string // the oldest first
}

// admit says why a Hello is refused, or takes it as the new authority.
func (a *authority) admit(h *transport.Hello) error {
	switch {
	case h.GetVersionMin() > protocolVersion || h.GetVersionMax() < protocolVersion:
		return fmt.Errorf("protocol versions %d to %d are offered, this agent speaks %d", h.GetVersionMin(), h.GetVersionMax(), protocolVersion)
	case h.GetBootId() == "":
		return fmt.Errorf("hello without a boot id")
	case slices.Contains(a.superseded, h.GetBootId()):
		return fmt.Errorf("boot id %.64q was superseded by a later boot of the host", h.GetBootId())
	}
	old := a.held
	switch {
	case old == nil:
	case old.GetBootId() != h.GetBootId():
		a.superseded = append(a.superseded, old.GetBootId())
		if n := len(a.superseded) - maxSuperseded; n > 0 {
			a.superseded = slices.Delete(a.superseded, 0, n)
		}
	case h.GetTicket() < old.GetTicket():
		return fmt.Errorf("a newer shim holds the session: ticket %d, this one has %d", old.GetTicket(), h.GetTicket())
	case h.GetTicket() == old.GetTicket() && h.GetConnection() <= old.GetConnection():
		return fmt.Errorf("a newer connection holds the session: number %d, this one is %d", old.GetConnection(), h.GetConnection())
	}
	a.held = h
	return nil
}
