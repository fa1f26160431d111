package datasync

import "path"

// ends are the routes that may feed each other: those of one workload, or those of
// all, whose folders are then below the workload's name.
type ends struct{ out, in []route }

// of returns the route with its folder below the workload's name.
func (r route) of(workload string) route {
	return route{local: path.Join(workload, r.local), prefix: r.prefix}
}

// add takes in the routes of a workload.
func (e *ends) add(workload string, mine ends) {
	for _, r := range mine.out {
		e.out = append(e.out, r.of(workload))
	}
	for _, r := range mine.in {
		e.in = append(e.in, r.of(workload))
	}
}

// splitLoops separates the routes of one workload that would feed each other for
// ever from the rest: an egress and an ingress route whose folders overlap and
// whose prefixes overlap too, directly or by way of other routes, those of other
// workloads included.
func splitLoops(workload string, mine, all ends) (ok ends, looped [][2]route) {
	badOut, badIn := map[route]bool{}, map[route]bool{}
	for _, o := range mine.out {
		comes := all.reach(o.of(workload))
		for _, n := range mine.in {
			if comes[n.of(workload)] && overlap(o.local, n.local) {
				badOut[o], badIn[n] = true, true
				looped = append(looped, [2]route{o, n})
			}
		}
	}
	for _, o := range mine.out {
		if !badOut[o] {
			ok.out = append(ok.out, o)
		}
	}
	for _, n := range mine.in {
		if !badIn[n] {
			ok.in = append(ok.in, n)
		}
	}
	return ok, looped
}

// splitAlone is splitLoops for a workload that nobody else is asked about.
func (e ends) splitAlone() (ok ends, looped [][2]route) { return splitLoops("", e, e) }

// reach returns the ingress routes by which can come down what an egress route
// sends, at once or after further rounds over the other routes.
func (e ends) reach(from route) map[route]bool {
	comes, sent := map[route]bool{}, map[route]bool{from: true}
	queue := []route{from}
	for len(queue) > 0 {
		o := queue[0]
		queue = queue[1:]
		for _, n := range e.in {
			if comes[n] || !overlap(o.prefix, n.prefix) {
				continue
			}
			comes[n] = true
			for _, next := range e.out {
				if !sent[next] && overlap(n.local, next.local) {
					sent[next] = true
					queue = append(queue, next)
				}
			}
		}
	}
	return comes
}
