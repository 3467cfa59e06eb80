// BFS: level-synchronous breadth-first search. `expand` marks the neighbours of the frontier, `advance`
// makes the marked nodes the next frontier and says whether there is one. One thread a node.
struct Node {
    int first;
    int count;
};

extern "C" __global__ void expand(const Node *nodes, const int *edges, unsigned char *frontier,
                                  unsigned char *marked, const unsigned char *visited, int *cost, int count)
{
    int node = blockIdx.x * blockDim.x + threadIdx.x;
    if (node < count && frontier[node]) {
        frontier[node] = 0;
        int first = nodes[node].first, last = first + nodes[node].count;
        int next = cost[node] + 1;
        for (int edge = first; edge < last; edge++) {
            int other = edges[edge];
            if (!visited[other]) {
                cost[other] = next;
                marked[other] = 1;
            }
        }
    }
}

extern "C" __global__ void advance(unsigned char *frontier, unsigned char *marked, unsigned char *visited,
                                   unsigned char *again, int count)
{
    int node = blockIdx.x * blockDim.x + threadIdx.x;
    if (node < count && marked[node]) {
        frontier[node] = 1;
        visited[node] = 1;
        *again = 1;
        marked[node] = 0;
    }
}
