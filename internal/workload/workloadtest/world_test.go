package workloadtest_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/project-flotta/flotta-agent/internal/secret"
	"github.com/project-flotta/flotta-agent/internal/workload/workloadtest"
)

func TestWorldKeepsTheContract(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	world := workloadtest.NewWorld(dir)
	world.Publish("good:1", workloadtest.Good)
	if err := world.PullImage(t.Context(), "good:1", secret.Value{}, func(string) {}); err != nil {
		t.Fatal(err)
	}
	workloadtest.Contract(t, workloadtest.Subject{
		Runtime: world, Units: workloadtest.Units{World: world}, Image: "good:1", None: "none:1",
		Stranger: world.PlaceStranger,
		Place: func(name, digest, image string) {
			folder := filepath.Join(dir, "workloads", name)
			if err := os.MkdirAll(folder, 0o750); err != nil {
				t.Fatal(err)
			}
			text := fmt.Sprintf(workloadtest.Manifest, name, name, digest, image)
			if err := os.WriteFile(filepath.Join(folder, "manifest.yaml"), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		},
	})
}
