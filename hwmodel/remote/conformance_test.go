package remote_test

import (
	"context"
	"path/filepath"
	"testing"

	"antiphon/hwmodel"
	"antiphon/hwmodel/hwtest"
	"antiphon/hwmodel/refpipe"
	"antiphon/hwmodel/remote"
)

// A device behind the socket is the same device.
func TestConformance(t *testing.T) {
	hwtest.Device(t, func(t *testing.T, c hwtest.Config) hwmodel.Device {
		url := "unix://" + filepath.Join(t.TempDir(), "device.sock")
		listener, err := remote.Listen(url)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() {
			done <- remote.Serve(ctx, listener, refpipe.New(refpipe.Options{Ports: c.Ports, Sizes: c.Sizes}))
		}()
		client, err := remote.NewClient(url)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			client.Close()
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
		return client
	})
}
