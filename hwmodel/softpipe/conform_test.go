package softpipe_test

import (
	"testing"

	"antiphon/hwmodel"
	"antiphon/hwmodel/hwtest"
	"antiphon/hwmodel/softpipe"
)

func TestConformance(t *testing.T) {
	hwtest.Run(t, func(t *testing.T, c hwtest.Config) hwmodel.Pipe {
		return softpipe.New(softpipe.Options{Ports: c.Ports, Sizes: c.Sizes})
	})
}
