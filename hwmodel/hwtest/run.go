package hwtest

import (
	"testing"

	"antiphon/hwmodel"
)

// Config is what a suite asks of the device it is given.
type Config struct {
	// Ports the device has.
	Ports []hwmodel.PortInfo
	// Sizes of its tables; 0 means the device's own.
	Sizes [hwmodel.TableCount]uint32
}

// numPorts is enough for the widest group tested.
const numPorts = 8

// ports are the ports of every device under test.
func ports() []hwmodel.PortInfo {
	p := make([]hwmodel.PortInfo, numPorts)
	for i := range p {
		p[i] = hwmodel.PortInfo{ID: hwmodel.PortID(i + 1), Name: "swp" + string(rune('1'+i))}
	}
	return p
}

// Run runs the whole suite. newPipe makes an empty device with the given ports
// and table sizes; what it opens it closes with t.Cleanup.
func Run(t *testing.T, newPipe func(t *testing.T, c Config) hwmodel.Pipe) {
	suite(t, func(t *testing.T, c Config) *subject {
		p := newPipe(t, c)
		return &subject{Device: p, pipe: p}
	})
}

// Device runs the part of the suite that needs no Run: frames go through Trace.
// For devices that are somewhere else.
func Device(t *testing.T, newDevice func(t *testing.T, c Config) hwmodel.Device) {
	suite(t, func(t *testing.T, c Config) *subject {
		return &subject{Device: newDevice(t, c)}
	})
}

type maker func(t *testing.T, c Config) *subject

func suite(t *testing.T, mk maker) {
	t.Run("capabilities", func(t *testing.T) { testCapabilities(t, mk) })
	t.Run("pipeline", func(t *testing.T) { testPipeline(t, mk) })
	t.Run("rewrite", func(t *testing.T) { testRewrite(t, mk) })
	t.Run("addresses", func(t *testing.T) { testAddresses(t, mk) })
	t.Run("tables", func(t *testing.T) { testTables(t, mk) })
	t.Run("full", func(t *testing.T) { testFull(t, mk) })
	t.Run("lpm", func(t *testing.T) { testLPM(t, mk) })
	t.Run("rules", func(t *testing.T) { testRules(t, mk) })
	t.Run("source", func(t *testing.T) { testSource(t, mk) })
	t.Run("groups", func(t *testing.T) { testGroups(t, mk) })
	t.Run("entries", func(t *testing.T) { testEntries(t, mk) })
	t.Run("counters", func(t *testing.T) { testCounters(t, mk) })
	t.Run("atomic", func(t *testing.T) { testAtomic(t, mk) })
}

func testCapabilities(t *testing.T, mk maker) {
	s := mk(t, Config{Ports: ports()})
	a, err := s.Capabilities(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.Capabilities(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "capabilities read twice", a, b)
	equal(t, "ports", ports(), a.Ports)
	if a.Name == "" || a.Instance == 0 {
		t.Errorf("name %q, instance %d: both must be set", a.Name, a.Instance)
	}
	if a.MaxLegs < 1 || a.MaxLegs > hwmodel.MaxGroupLegs {
		t.Errorf("MaxLegs %d", a.MaxLegs)
	}
	other, err := mk(t, Config{Ports: ports()}).Capabilities(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if a.Instance == other.Instance {
		t.Error("two lives of the device have one instance")
	}
}
