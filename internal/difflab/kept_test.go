package difflab

// keptScenarios are what TestRandom found, shrunk.
func keptScenarios() []*scenario {
	return []*scenario{}
}
