package refpipe_test

import (
	"testing"

	"antiphon/hwmodel"
	"antiphon/hwmodel/hwtest"
	"antiphon/hwmodel/refpipe"
)

func newPipe(t *testing.T, c hwtest.Config) hwmodel.Pipe {
	return refpipe.New(refpipe.Options{Ports: c.Ports, Sizes: c.Sizes})
}

func TestConformance(t *testing.T) { hwtest.Run(t, newPipe) }

// TestConformanceAsDevice is the part of the suite for devices without Run.
func TestConformanceAsDevice(t *testing.T) {
	hwtest.Device(t, func(t *testing.T, c hwtest.Config) hwmodel.Device { return newPipe(t, c) })
}

// TestCompareWithItself keeps the comparison itself honest.
func TestCompareWithItself(t *testing.T) { hwtest.Compare(t, 1, 5, 500, newPipe, newPipe) }
