package datasync

// splitLoops separates the routes of one workload that would feed each other for
// ever from the rest: an egress and an ingress route whose folders overlap and
// whose prefixes overlap too, directly or by way of other routes.
func splitLoops(out, in []route) (okOut, okIn []route, looped [][2]route) {
	badOut, badIn := make([]bool, len(out)), make([]bool, len(in))
	for i, o := range out {
		for j, n := range in {
			if leadsTo(o, n, out, in) && overlap(o.local, n.local) {
				badOut[i], badIn[j] = true, true
				looped = append(looped, [2]route{o, n})
			}
		}
	}
	for i, o := range out {
		if !badOut[i] {
			okOut = append(okOut, o)
		}
	}
	for j, n := range in {
		if !badIn[j] {
			okIn = append(okIn, n)
		}
	}
	return okOut, okIn, looped
}

// leadsTo reports whether what from uploads can come down by to, at once or
// after further rounds over the other routes.
func leadsTo(from, to route, out, in []route) bool {
	seen := make([]bool, len(out))
	queue := []route{from}
	for len(queue) > 0 {
		o := queue[0]
		queue = queue[1:]
		for _, n := range in {
			if !overlap(o.prefix, n.prefix) {
				continue
			}
			if n == to {
				return true
			}
			for k, next := range out {
				if !seen[k] && overlap(n.local, next.local) {
					seen[k] = true
					queue = append(queue, next)
				}
			}
		}
	}
	return false
}
