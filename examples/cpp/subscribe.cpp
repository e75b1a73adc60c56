// Print a line of JSON for each mask: ./subscribe tcp://127.0.0.1:5570 [MILLISECONDS]
// MILLISECONDS stands for work that each mask costs; the masks stay fresh, and some are skipped.

#include <iostream>

#include "subscription.hpp"

int main(int count, char** words) {
    using namespace streamseg;
    Subscription masks(count > 1 ? words[1] : "tcp://127.0.0.1:5570");
    const std::chrono::milliseconds work(count > 2 ? std::stoi(words[2]) : 0);
    while (const auto mask = masks.next()) {
        const double age = age_s(*mask);
        std::array<size_t, 256> pixels{};
        for (const uint8_t label : mask->labels) pixels[label]++;
        const json classes = masks.classes(mask->header["label_set"]);
        json line, shares;
        for (size_t id = 0; id < pixels.size(); id++) {
            if (!pixels[id]) continue;
            const bool named = id < classes.size();
            const std::string name = named ? classes[id]["name"].get<std::string>() : std::to_string(id);
            shares[name] = static_cast<double>(pixels[id]) / mask->labels.size();
        }
        for (const char* field : {"stream", "run", "seq", "n", "shape"}) line[field] = mask->header[field];
        if (mask->header.contains("same_as")) line["same_as"] = mask->header["same_as"];
        const Stats s = masks.stats();
        line["age_s"] = age;
        line["shares"] = shares;
        line["stats"] = {{"received", s.received}, {"unchanged", s.unchanged}, {"skipped", s.skipped},   {"lost", s.lost},
                         {"repeated", s.repeated}, {"restarts", s.restarts}, {"bad", s.bad}};
        std::cout << line.dump() << std::endl;
        std::this_thread::sleep_for(work);
    }
}
