package replica

import (
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
)

func dotted(a []byte) string { return netip.AddrFrom4([4]byte(a)).String() }

// ipBatch runs lines of `ip` in the calling thread's namespace.
func ipBatch(lines string) error {
	cmd := exec.Command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(lines)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip -batch: %w: %s", err, out)
	}
	return nil
}
