package softpipe_test

import (
	"testing"

	"antiphon/hwmodel"
	"antiphon/hwmodel/hwtest"
	"antiphon/hwmodel/refpipe"
	"antiphon/hwmodel/softpipe"
)

// TestAgainstReference requires that random tables and frames come out of this
// device as out of the executable specification.
func TestAgainstReference(t *testing.T) {
	tables := 60
	if testing.Short() {
		tables = 6
	}
	hwtest.Compare(t, 1, tables, 400,
		func(t *testing.T, c hwtest.Config) hwmodel.Pipe {
			return refpipe.New(refpipe.Options{Ports: c.Ports, Sizes: c.Sizes})
		},
		func(t *testing.T, c hwtest.Config) hwmodel.Pipe {
			return softpipe.New(softpipe.Options{Ports: c.Ports, Sizes: c.Sizes})
		})
}
